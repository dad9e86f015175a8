"""One update, in the order in which everything happens. It knows no method by name.

1. The attack: `method.perturb` on the bare network in eval mode and frozen, or on a copy of it that is refreshed
   first; no process waits for another.
2. The optimizer: `method.loss` in training mode, inside `method.around_update`; backward averages over the processes.
3. What is remembered: running statistics, `method.after_update`, the average of the weights.

With gradient accumulation 1 and the loss and backward of 2 are done for one part of the batch after another.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from satbench.attacks.base import batch_statistics, crafting
from satbench.methods.base import Method, Step
from satbench.models.activation_checkpointing import blocks_of, recomputed
from satbench.models.buffers import KeptBuffers
from satbench.models.precision import Autocast
from satbench.models.search_copy import SearchCopy
from satbench.models.surrogate import surrogate_derivative
from satbench.numerics.seeding import derive
from satbench.training.distributed import gradients_kept


class Update(NamedTuple):
    """What an update gave, over all processes.

    loss: its scalar, detached. accuracy: of the logits of the crafted images in training mode, None where the loss does
    not show which these are. stop: whether any process was told to stop.
    """

    loss: Tensor
    accuracy: Tensor | None
    stop: bool


@dataclass
class Learner:
    """A network, its optimizer and the method that trains it.

    net: what is attacked and saved. wrapped: the same network, as the loss runs it (several processes, or compiled).
    attack_bn_mode, surrogate_attacker, surrogate_optimizer, precision, clip: as in `TrainConfig`. watched: whether the
    accuracy is taken, by a hook, which a compiled network must not have. activation_checkpointing: whether the
    network's blocks recompute their activations, in the attack and in the update. search: the copy of `net` that images
    are crafted on, in the precision of the attack; None crafts on `net`. It needs attack_bn_mode "eval".
    """

    net: nn.Module
    optimizer: torch.optim.Optimizer
    method: Method
    seed: int = 0
    wrapped: nn.Module | None = None
    attack_bn_mode: str = "eval"
    surrogate_attacker: bool = False
    surrogate_optimizer: bool = False
    precision: str = "float32"
    clip: float | None = None
    watched: bool = True
    activation_checkpointing: bool = False
    search: SearchCopy | None = None
    attacked: nn.Module = field(init=False)  # as `perturb` is given it
    trained: nn.Module = field(init=False)  # as `loss` is given it
    running: list[Tensor] = field(init=False)  # the running statistics of batch norms
    blocks: list[nn.Module] = field(init=False)  # of `net` that recompute their activations
    attacked_blocks: list[nn.Module] = field(init=False)  # the same ones of `attacked`

    def __post_init__(self) -> None:
        wrapped = self.wrapped or self.net
        if self.search is not None:
            self.attacked = self.search.module
        else:
            self.attacked = self.net if self.precision == "float32" else Autocast(self.net)
        self.trained = Autocast(wrapped) if self.precision == "bf16" else wrapped
        norms = [module for module in self.net.modules() if isinstance(module, _BatchNorm)]
        statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self.running = [buffer for buffer in statistics if buffer is not None]
        self.blocks = self.attacked_blocks = blocks_of(self.net) if self.activation_checkpointing else []
        if self.search is not None:
            name_of = {module: name for name, module in self.net.named_modules()}
            self.attacked_blocks = [self.search.network.get_submodule(name_of[block]) for block in self.blocks]

    def update(self, step: Step, lr: float, pressed: bool = False) -> Update:
        """One update at learning rate `lr`; `pressed` tells it to stop."""
        with recomputed(self.attacked_blocks), self._attacking():
            x_adv = _joined([self.method.perturb(self.attacked, part) for part, _ in step.split(step.x)])
        self._seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.trained.train()
        surrogate = surrogate_derivative(self.net) if self.surrogate_optimizer else nullcontext()
        with recomputed(self.blocks), surrogate, self.method.around_update(self.net, x_adv, step):
            self.optimizer.zero_grad(set_to_none=True)
            found = step.mean(self._gradients(x_adv, step))
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
            self.optimizer.step()
        update = self._agree(found, pressed, step)
        self.method.after_update(self.net, x_adv, step)
        return update

    def _gradients(self, x_adv: Tensor, step: Step) -> Iterator[list[Tensor]]:
        """Add up the gradients of all parts; yields of each its loss, its accuracy if known, and running statistics.

        Every part moves the buffers of the network from where they were before the first one.
        """
        parts = list(step.split(x_adv))
        buffers = KeptBuffers(self.net) if len(parts) > 1 else None
        for number, (part, images) in enumerate(parts, 1):
            if buffers is not None:
                buffers.restore()
            with nullcontext() if number == len(parts) else gradients_kept(self.wrapped):
                with self._watching(images) as logits:
                    loss = self.method.loss(self.trained, images, part)
                # DDP averages over processes, whose shares of a batch may differ by an image
                share = len(part.x) * part.processes.count / len(part.batch_index)
                (loss * share).backward()  # type: ignore[no-untyped-call]
            accuracy = [(logits[0].argmax(1) == part.y).float().mean()] if logits else []
            yield [loss.detach(), *accuracy, *self.running]

    @contextmanager
    def _attacking(self) -> Iterator[None]:
        if self.search is not None:
            self.search.refresh()
        with ExitStack() as stack:
            stack.enter_context(crafting(self.attacked))
            if self.attack_bn_mode == "train":
                stack.enter_context(batch_statistics(self.net))
            if self.surrogate_attacker:
                stack.enter_context(surrogate_derivative(self.attacked))
            yield

    def _seed(self, step: Step) -> None:
        """For networks that draw numbers while they learn; every process draws its own."""
        seed = derive(self.seed, "update", step.number, *([step.processes.rank] if step.processes.rank else []))
        torch.default_generator.manual_seed(seed)
        if step.x.is_cuda:
            torch.cuda.manual_seed(seed)

    @contextmanager
    def _watching(self, x_adv: Tensor) -> Iterator[list[Tensor]]:
        """A list that holds, after the loss was computed, the logits of the images `x_adv`.

        A loss that passes on changed images is understood where it takes one pass only; else the list stays empty.
        """
        seen: list[tuple[Tensor, Tensor]] = []
        found: list[Tensor] = []

        def note(module: nn.Module, given: tuple[Any, ...], logits: Tensor) -> None:
            seen.append((given[0], logits.detach()))

        hook = self.net.register_forward_hook(note) if self.watched else None
        try:
            yield found
        finally:
            if hook is not None:
                hook.remove()
        found += [logits for images, logits in seen if images is x_adv or len(seen) == 1][:1]

    def _agree(self, found: list[Tensor], stop: bool, step: Step) -> Update:
        """Bring what every part and every process saw alone together, once an update."""
        if step.processes.count > 1:
            *found, stops = step.processes.mean([*found, found[0].new_tensor(float(stop))], step)
            stop = bool(stops)
        loss, *accuracy = found[: len(found) - len(self.running)]
        for buffer, mean in zip(self.running, found[len(found) - len(self.running) :], strict=True):
            buffer.copy_(mean)
        return Update(loss, accuracy[0] if accuracy else None, stop)


def _joined(parts: list[Tensor]) -> Tensor:
    """The crafted images of all parts; a leaf with gradient where those of a part are."""
    if len(parts) == 1:
        return parts[0]
    return torch.cat([part.detach() for part in parts]).requires_grad_(parts[0].requires_grad)


def targets(y: Tensor, classes: int, amount: float, over: str) -> Tensor:
    """Labels (n,) as the outer loss is to fit them: themselves, or smoothed to (n, K) as `SmoothingConfig` says."""
    if amount == 0:
        return y
    others = amount / (classes - 1) if over == "others" else amount / classes
    true = 1 - amount if over == "others" else 1 - amount + others
    return torch.where(functional.one_hot(y, classes).bool(), true, others)
