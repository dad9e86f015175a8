"""Runs one attack on one batch of images and judges what it returns."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from satbench.attacks import Attack
from satbench.attacks.base import crafting, exhaustive, from_outside, info_of, stages_of
from satbench.core.errors import FAULTS, BadInput, reason
from satbench.evaluation.counting import Counted
from satbench.evaluation.judge import Judged, Vote, judge, vote
from satbench.evaluation.target import Target
from satbench.models.buffers import KeptBuffers, buffers_kept
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import SearchInfo
from satbench.specs.attack import AttackInfo


@dataclass(frozen=True)
class Search:
    """Where attacks search: `module`, a copy of the judged model (`is_copy`) or another network."""

    module: nn.Module
    info: SearchInfo
    is_copy: bool


@dataclass(frozen=True)
class Passes:
    """What an attack did to each image, on the CPU: forward and backward passes, int64 (N,); the forward pass at which
    the network first erred in ball and box, or -1; whether a gradient was NaN or infinite, bool (N,)."""

    forward: Tensor
    backward: Tensor
    fell_at: Tensor
    bad_gradient: Tensor


class Executor:
    """The judged model, and where attacks on it search.

    The majority of `draws` passes of the model decides, in eval mode and float32. One verdict of a `random_network`, or
    of a network that is searched in place of the judged one, ends no search: attacks run without their early stop.
    Every iterate that the attack shows such another network is judged on the model, and the first that it
    misclassifies is the example.

    At most `at_once` images, at first `batch_size`, go through a network together.
    """

    def __init__(
        self, model: nn.Module, search: Search | None, batch_size: int, seed: int, draws: int, random_network: bool
    ) -> None:
        self.model, self.seed, self.draws, self.random_network = model, seed, draws, random_network
        self.judge = Counted(model, batch_size)
        self.search = Counted(search.module if search else model, batch_size)
        self.is_copy = search is not None and search.is_copy
        elsewhere = search is not None and not search.is_copy and search.module is not model
        self.target = Target(self.judge, self.search, draws) if elsewhere else None
        self.buffers = KeptBuffers(model, self.search.model)

    def stages(self, attack: Attack) -> tuple[Attack, ...]:
        """The stages of an attack, without early stop where one verdict of the searched network decides nothing."""
        return stages_as_run(attack, self.random_network or self.target is not None)

    def clean(self, x: Tensor, y: Tensor) -> Vote:
        """The model's answer to images as they are."""
        with crafting(self.model):
            return vote(self.judge.watched, x, y, self.draws)

    def attack(
        self, stage: Attack, threat: ThreatModel, x: Tensor, y: Tensor, streams: PerSample, ids: tuple[str, ...]
    ) -> tuple[Tensor, Judged, Passes]:
        """Examples, the verdicts on them, and the passes that they took.

        An image that is misclassified by the search copy but not by the judge, by a rounding error, is attacked again
        on the judged model itself.
        """
        self.buffers.restore()  # for a model that counts its passes
        if self.target:
            self.target.watch(x, y, threat)
        x_adv = self._craft(self.search, stage, threat, x, y, streams)
        passes = _passes(self.search)
        if self.target:
            x_adv = self.target.chosen(x_adv)
            forward = passes.forward + self.target.passes.cpu()
            passes = replace(passes, forward=forward, fell_at=self.target.fell_at.cpu())
        with crafting(self.model):
            seen = judge(self.judge.watched, x, x_adv, y, threat, self.draws)
        if not self.is_copy or self.random_network:
            return x_adv, seen, passes
        doubtful = ((seen.predictions == y) & (passes.fell_at.to(y.device) >= 0)).nonzero()[:, 0]
        if len(doubtful):
            with crafting(self.search.model), torch.no_grad():
                copied = self.search.model(x_adv[doubtful].float()).argmax(1)
            doubtful = doubtful[copied != y[doubtful]]
        if len(doubtful):
            again = PerSample.of(self.seed, [ids[i] for i in doubtful.tolist()], "attack")
            x_adv[doubtful] = self._craft(self.judge, stage, threat, x[doubtful], y[doubtful], again)
            more, where = _passes(self.judge), doubtful.cpu()
            self.judge.threat = None
            with crafting(self.model):
                seen = judge(self.judge.watched, x, x_adv, y, threat, self.draws)
            passes.fell_at[where] = torch.where(more.fell_at < 0, -1, passes.forward[where] + more.fell_at)
            passes.forward[where] += more.forward
            passes.backward[where] += more.backward
            passes.bad_gradient[where] |= more.bad_gradient
        return x_adv, seen, passes

    def _craft(
        self, network: Counted, stage: Attack, threat: ThreatModel, x: Tensor, y: Tensor, streams: PerSample
    ) -> Tensor:
        network.watch(x, y, threat)
        foreign = from_outside(stage) is not None
        held = _checksums(network.model) if foreign else {}
        try:
            with (
                crafting(network.model),
                crafting(self.model),
                network.inner_passes() if foreign else nullcontext(),
            ):
                x_adv = stage(network.watched, x.clone(), y.clone(), threat, streams)
        except (BadInput, torch.OutOfMemoryError):
            raise
        except FAULTS as error:
            if _memory_ran_out(error):
                raise
            raise BadInput(f"{stage} failed on this model: {reason(error)}") from error
        if not isinstance(x_adv, Tensor):
            raise BadInput(f"{stage} returned a {type(x_adv).__name__}; an attack returns a tensor like the images")
        if x_adv.shape != x.shape:
            raise BadInput(f"{stage} returned shape {tuple(x_adv.shape)} for images of shape {tuple(x.shape)}")
        now = _checksums(network.model) if held else {}
        changed = {name for name in held if held[name] != now.get(name)}
        if changed and changed - _moved_by_a_pass(network.model, x[:1]):
            raise BadInput(f"{stage} changed the weights or buffers of the network; let it work on a copy of it")
        return x_adv.detach()

    def halve(self, error: RuntimeError, rows: int) -> int:
        """Let half as many images through at a time, and return how many; raises any error but a lack of memory."""
        at_once = min(self.search.at_once, rows)
        if not _memory_ran_out(error) or at_once == 1:
            raise error
        self.search.at_once = self.judge.at_once = at_once // 2
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        return at_once // 2


def stages_as_run(attack: Attack, to_the_end: bool) -> tuple[Attack, ...]:
    """The stages of an attack, `to_the_end` without their early stop."""
    stages = stages_of(attack)
    return tuple(map(exhaustive, stages)) if to_the_end else stages


def info_as_run(attack: Attack, stages: Sequence[Attack]) -> AttackInfo:
    """What a run says of an attack whose `stages` are those that were run."""
    return info_of(attack).model_copy(update={"stages": tuple(map(info_of, stages)) if len(stages) > 1 else ()})


def _passes(network: Counted) -> Passes:
    forward, backward, fell_at = (one.cpu() for one in network.counts())
    return Passes(forward, backward, fell_at, network.bad_gradient.cpu())


def _checksums(network: nn.Module) -> dict[str, float]:
    """One number for each weight and buffer, which almost any change moves."""
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    return {name: float(tensor.detach().double().nan_to_num().sum()) for name, tensor in tensors.items()}


def _moved_by_a_pass(network: nn.Module, x: Tensor) -> set[str]:
    """Names of the buffers that a pass in eval mode moves, such as a counter; they are put back."""
    with buffers_kept(network) as kept, crafting(network), torch.no_grad():
        network(x)
        return set(kept.moved())


def _memory_ran_out(error: BaseException) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)
