"""What a training method is, and what it is given at every step."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from satbench.core.eps import NORMS
from satbench.core.errors import BadInput
from satbench.numerics.modes import evaluating
from satbench.numerics.seeding import Randomness, part
from satbench.numerics.threat import ThreatModel

NO_LABEL = -1
START = "start_"  # begins the names under which a method logs the figures of the network that its stage began with


# what a method here follows, the most certain first: code that its authors released, what they wrote, or an abstract
# that leaves most open
KnownFrom = Literal["authors' code", "paper", "reconstruction"]


@dataclass(frozen=True)
class Passes:
    """Rows that go through the network for every image of an update, forward and backward."""

    forward: float
    backward: float


class Processes:
    """The processes that share a batch; this one is alone."""

    rank = 0
    count = 1

    def everywhere(self, values: Tensor, step: "Step") -> Tensor:
        """The rows of the whole batch, from each process its own (n, ...); the same on every process."""
        return values

    def mean(self, tensors: Sequence[Tensor], step: "Step") -> list[Tensor]:
        """Averages over the images of the whole batch, from averages over each process' own."""
        return list(tensors)

    def total(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Sums over the processes; whole numbers stay exact."""
        return list(numbers)

    def wait(self) -> None:
        """Go on when every process has come here."""


@dataclass
class Step:
    """One update: its images, where the run stands, and what the method remembers.

    x: float (n, C, H, W) in [0, 1], after augmentation; in one of several processes its share of the batch.
    views: further augmentations of the same images, drawn independently, each like `x`; see `Method.views`.
    y: int64 (n,), `NO_LABEL` for a method that learns without. targets: what the outer loss is to fit, `y` itself or
    soft labels (n, K).
    index: int64 (n,), the rows of the images in the training set; batch_index: those of the whole batch.
    number: updates taken before this one. epoch: passes over the data behind it, with a fraction.
    threat: with the radius of this step. state: tensors that outlive the step; they are kept in the checkpoint and must
    be the same on every process. kept: what one hook leaves for a later one of the same step. batch_statistics: whether
    batch norms normalise by the batch while images are crafted. accumulation: in how many parts the images go through
    the network, see `split`. network: the one that is trained, as it is saved, see `second_network`.
    """

    x: Tensor
    y: Tensor
    targets: Tensor
    index: Tensor
    batch_index: Tensor
    start: int  # the place of the first image in the whole batch
    number: int
    epoch: float
    threat: ThreatModel
    randomness: Randomness
    state: dict[str, Tensor] = field(default_factory=dict)
    kept: dict[str, Tensor] = field(default_factory=dict)
    processes: Processes = field(default_factory=Processes)
    batch_statistics: bool = False
    accumulation: int = 1
    network: nn.Module | None = None
    views: tuple[Tensor, ...] = ()
    _parts: tuple["Step", ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        if self.accumulation > 1:
            cut = self.x.tensor_split(max(1, min(self.accumulation, len(self.x) // 2)))
            self._parts = tuple(map(self._part, accumulate(map(len, cut[:-1]), initial=0), map(len, cut)))

    def split(self, images: Tensor) -> Iterator[tuple["Step", Tensor]]:
        """Yield the parts in order, each with its rows of `images` (n, ...); the step itself where it has one part.

        A part is to a batch what a process's share is: its random numbers are those that its images have in the whole
        batch, and batch norms see it alone. It has at least two images; a batch of few images has fewer parts.
        """
        if not self._parts:
            yield self, images
        for one in self._parts:
            place = one.start - self.start
            yield one, images[place : place + len(one.x)]

    def mean(self, averages: Iterable[Sequence[Tensor]]) -> list[Tensor]:
        """Averages over the images, from averages over those of each part in turn; only a sum is kept."""
        if not self._parts:
            (alone,) = averages
            return list(alone)
        mean: list[Tensor] = []
        for one, tensors in zip(self._parts, averages, strict=True):
            weighted = [tensor * (len(one.x) / len(self.x)) for tensor in tensors]
            mean = [total + tensor for total, tensor in zip(mean, weighted, strict=True)] if mean else weighted
        return mean

    def _part(self, start: int, count: int) -> "Step":
        rows = slice(start, start + count)
        return replace(
            self,
            x=self.x[rows],
            views=tuple(view[rows] for view in self.views),
            y=self.y[rows],
            targets=self.targets[rows],
            index=self.index[rows],
            start=self.start + start,
            randomness=part(self.randomness, start, count, len(self.x)),
            kept={},
            accumulation=1,
        )

    @classmethod
    def of(cls, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> "Step":
        """The first step on these images alone, for tests and benchmarks."""
        index = torch.arange(len(x), device=x.device)
        return cls(x, y, y, index, index, 0, 0, 0.0, threat, randomness)


class Method(ABC):
    """An inner maximisation and an objective: a frozen dataclass that holds no model and no state.

    The trainer calls, in this order: `perturb`, before which it puts the model in eval mode, freezes it and lets batch
    norms use running or batch statistics, as `attack_bn_mode` says, without moving them; then, inside `around_update`
    and with the model in training mode, `loss`, backward and the optimiser's step; then `after_update`. With gradient
    accumulation it calls `perturb` and `loss` for every part of the step, the other two for the whole. Before the first
    update it calls `begin`, and `after_epoch` after every epoch that was measured.
    """

    paper = ""  # where it is from; "" for no paper
    known_from: KnownFrom = "authors' code"
    chosen_by: tuple[str, ...] = ("robust", "clean")  # figures of an epoch that make it the best, the first one first
    norms: tuple[str, ...] = NORMS  # of the threats that it is defined for
    crafts = True  # whether `perturb` takes passes of its own
    replays = 1  # updates on the same batch one after another
    loss_passes = Passes(1, 1)  # what `loss` takes of `passes`
    views = 1  # augmentations of every image that a step holds, `Step.x` included
    labelled = True  # whether it learns from labels; elsewhere it sees none
    soft_targets = True  # whether the outer loss is defined for soft labels
    reads: tuple[str, ...] = ()  # figures of the validation split that `begin` and `after_epoch` need
    second_order = False  # whether the loss itself is differentiated on the way to its value
    two_modes = False  # whether the loss runs batch norms in two ways, which recomputed activations cannot repeat
    separable = True  # whether the loss is a mean over images of what each gives alone, batch norm aside
    needs_trained = False  # whether it starts from a trained network: `init_from`, or an earlier stage
    awp_source = ""  # the work that defines adversarial weight perturbation around it; "" refuses `awp`
    start_epoch = 0  # passes over the data before it does more than the method that it extends

    @property
    @abstractmethod
    def passes(self) -> Passes:
        """What an update costs a sample; the most, where samples may stop early."""

    def mean_passes(self, epochs: float) -> Passes:
        """`passes`, as a mean over the updates of so many epochs."""
        return self.passes

    @property
    def crafting(self) -> Passes:
        """What `perturb` takes of `passes`."""
        whole, rest = self.passes, self.loss_passes
        return Passes(whole.forward - rest.forward, whole.backward - rest.backward)

    @abstractmethod
    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        """The images to train on, of the shape of `step.x`, crafted with the model as it stands.

        Leaves modes, parameters, buffers and `.grad` as they were.
        """

    @abstractmethod
    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        """The scalar to minimise, an average over the images; runs the model in the mode it is in."""

    def refuse(self, threat: ThreatModel) -> None:
        """Raise `BadInput` for a threat that the method is not defined for."""
        if threat.norm not in self.norms:
            name = type(self).__name__
            raise BadInput(f"{name} is defined for {', '.join(self.norms)}, not {threat.norm}; use pgd_at")

    def refuse_length(self, epochs: float, updates: int) -> None:  # noqa: B027  # most take any
        """Raise `BadInput` where a run or stage of so many epochs and updates ends before the method is complete."""

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        """What `step.state` holds before the first update; `batch` is the shape (N, C, H, W) of the largest batch."""
        return {}

    def begin(self, model: nn.Module, state: dict[str, Tensor], measure: Callable[[], Mapping[str, float]]) -> None:  # noqa: B027
        """Fill the state before the first update of the run, or of a stage; `measure` gives figures of the network.

        These are those of the evaluators on the validation split, by name; none without one.
        """

    def after_epoch(self, state: dict[str, Tensor], figures: Mapping[str, float]) -> None:  # noqa: B027
        """Write to the state what the figures of an epoch that was measured teach; the same on every process."""

    def logged(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        """What the log of an epoch shows of the state under which it was trained, before `after_epoch`."""
        return {}

    @contextmanager
    def around_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> Iterator[None]:
        """Surrounds loss, backward and the optimiser's step."""
        yield

    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:  # noqa: B027  # most need none
        """Write to `step.state` what this step taught; running statistics are those of all parts and processes."""


def weights_of(model: nn.Module, name: str) -> dict[str, Tensor]:
    """Copies of the parameters and buffers of a network, for a method's state, under `name` and their own names."""
    return {f"{name}.{key}": tensor.detach().clone() for key, tensor in model.state_dict().items()}


def second_network(step: Step, name: str, x: Tensor) -> Tensor:
    """The logits, without gradient, of the network in eval mode with the weights that the state holds under `name`.

    So a method has a teacher or an anchor, which is saved with the state. Batch norms use its running statistics,
    also where `attack_bn_mode` lets those of the network use the batch's.
    """
    assert step.network is not None, "only the trainer gives a step its network"
    weights = {key.removeprefix(f"{name}."): tensor for key, tensor in step.state.items() if key.startswith(f"{name}.")}
    with torch.no_grad(), evaluating(step.network):
        logits: Tensor = functional_call(step.network, weights, (x,))
        return logits
