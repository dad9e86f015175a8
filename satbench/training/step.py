"""One update, in the order in which everything happens. It knows no method by name.

1. The attacker: `method.perturb` on the bare network, put in eval mode and frozen; no process waits for another.
2. The optimizer: `method.loss` in training mode, inside `method.around_update`; backward averages over the processes.
3. What is remembered: `method.after_update`, running statistics, the average of the weights.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from satbench.attacks.base import batch_statistics, crafting
from satbench.methods.base import Method, Step
from satbench.models.surrogate import surrogate_derivative
from satbench.seeding import derive


class Autocast(nn.Module):
    """A network under bfloat16 autocast whose logits are float32, so that losses are computed in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.net(x)
        return logits.float()


@dataclass
class Learner:
    """A network, its optimizer and the method that trains it.

    net: what is attacked and saved. wrapped: the same network, as the loss runs it (several processes, or compiled).
    attack_bn_mode, surrogate_attacker, surrogate_optimizer, precision, clip: as in `training.config`.
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
    attacked: nn.Module = field(init=False)  # as `perturb` is given it
    trained: nn.Module = field(init=False)  # as `loss` is given it
    running: list[Tensor] = field(init=False)  # the running statistics of batch norms

    def __post_init__(self) -> None:
        wrapped = self.wrapped or self.net
        self.attacked = self.net if self.precision == "float32" else Autocast(self.net)
        self.trained = Autocast(wrapped) if self.precision == "bf16" else wrapped
        norms = [module for module in self.net.modules() if isinstance(module, _BatchNorm)]
        statistics = [buffer for norm in norms for buffer in (norm.running_mean, norm.running_var)]
        self.running = [buffer for buffer in statistics if buffer is not None]

    def update(self, step: Step, lr: float, pressed: bool = False) -> tuple[Tensor, bool]:
        """One update at learning rate `lr`; its loss, detached, and whether any process was told to stop."""
        with self._attacking():
            x_adv = self.method.perturb(self.attacked, step)
        self._seed(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.trained.train()
        with self._descending(), self.method.around_update(self.net, x_adv, step):
            loss = self.method.loss(self.trained, x_adv, step)
            self.optimizer.zero_grad(set_to_none=True)
            (loss * self._share(step)).backward()  # type: ignore[no-untyped-call]
            if self.clip is not None:
                nn.utils.clip_grad_norm_(self.net.parameters(), self.clip)
            self.optimizer.step()
        self.method.after_update(self.net, x_adv, step)
        return self._agree(loss.detach(), pressed, step)

    @contextmanager
    def _attacking(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(crafting(self.attacked))
            if self.attack_bn_mode == "train":
                stack.enter_context(batch_statistics(self.net))
            if self.surrogate_attacker:
                stack.enter_context(surrogate_derivative(self.net))
            yield

    def _descending(self) -> AbstractContextManager[None]:
        return surrogate_derivative(self.net) if self.surrogate_optimizer else nullcontext()

    def _seed(self, step: Step) -> None:
        """For networks that draw numbers while they learn; every process draws its own."""
        seed = derive(self.seed, "update", step.number, *([step.processes.rank] if step.processes.rank else []))
        torch.default_generator.manual_seed(seed)
        if step.x.is_cuda:
            torch.cuda.manual_seed(seed)

    def _share(self, step: Step) -> float:
        """DDP averages over processes, whose shares of a batch may differ by an image."""
        return len(step.x) * step.processes.count / len(step.batch_index)

    def _agree(self, loss: Tensor, pressed: bool, step: Step) -> tuple[Tensor, bool]:
        """Bring what every process saw alone together, once an update."""
        if step.processes.count == 1:
            return loss, pressed
        stop = loss.new_tensor(float(pressed))
        loss, stop, *running = step.processes.mean([loss, stop, *self.running], step)
        for buffer, mean in zip(self.running, running, strict=True):
            buffer.copy_(mean)
        return loss, bool(stop)


def targets(y: Tensor, classes: int, amount: float, over: str) -> Tensor:
    """Labels (n,) as the outer loss is to fit them: themselves, or smoothed to (n, K) as `SmoothingConfig` says."""
    if amount == 0:
        return y
    others = amount / (classes - 1) if over == "others" else amount / classes
    true = 1 - amount if over == "others" else 1 - amount + others
    return torch.where(functional.one_hot(y, classes).bool(), true, others)
