"""The network under examination: a sample of its images, every pass counted, whatever it raises named."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from satbench.attacks import Attack
from satbench.attacks.base import crafting
from satbench.attacks.losses import margin, margin_targeted
from satbench.core.errors import FAULTS, BadInput, reason
from satbench.data import Images
from satbench.models.buffers import KeptBuffers
from satbench.numerics.seeding import PerSample, derive
from satbench.numerics.threat import ThreatModel

AT_ONCE = 2**21  # pixel values that go through the network together: 256 images of 64 x 64, 13 of 224 x 224
MOST_AT_ONCE = 256


class NetworkFault(Exception):
    """A sentence that says how the network failed; a finding, not an error of the battery."""


@dataclass
class Tally:
    """Passes of images so far."""

    forwards: int = 0
    backwards: int = 0

    @property
    def passes(self) -> int:
        return self.forwards + self.backwards


class Counting(nn.Module):
    """A network that tallies the images in its passes and refuses output that is no logits."""

    def __init__(self, model: nn.Module, tally: Tally) -> None:
        super().__init__()
        self.model = model
        self.tally = tally

    def forward(self, x: Tensor) -> Tensor:
        self.tally.forwards += len(x)
        try:
            logits = self.model(x)
        except torch.OutOfMemoryError:
            raise
        except FAULTS as error:
            raise NetworkFault(f"It raises {reason(error)} on images of shape {tuple(x.shape)}.") from error
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x) or logits.shape[1] < 2:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise NetworkFault(f"It returns {shape} for {len(x)} images, not logits ({len(x)}, classes).")
        if logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(len(x)))  # type: ignore[no-untyped-call]
        return logits

    def _count_backward(self, images: int) -> None:
        self.tally.backwards += images


@dataclass
class Subject:
    """Images `x` (N, C, H, W) with labels `y` and ids, a network in eval mode, and what is known of both so far.

    moved: names the buffers that are not what they were. logits: of the images as they are, once `usable`. steady: the
    same answer twice. moves: there is a gradient to follow. broken: by some white-box attack, bool (N,). attacked: how
    many images, from the first, white-box attacks have met. measured_by: the names of the run's attacks.
    """

    network: Counting
    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    threat: ThreatModel
    seed: int
    source: Counting | None
    at_once: int
    moved: Callable[[], list[str]]
    measured_by: frozenset[str] = frozenset()
    logits: Tensor = field(init=False)
    moves: bool = False
    usable: bool = False
    steady: bool = False
    broken: Tensor = field(init=False)
    attacked: int = 0

    def __post_init__(self) -> None:
        self.broken = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)

    def has(self, need: str) -> bool:
        """Whether what a check needs is there."""
        return {
            "logits": self.usable,
            "steady": self.steady,
            "gradient": self.moves,
            "radius": self.threat.eps > 0,
            "white-box": self.attacked > 0,
            "source": self.source is not None,
        }[need]

    @property
    def correct(self) -> Tensor:
        """Which images are classified correctly as they are, bool (N,)."""
        return self.logits.argmax(1) == self.y

    def rows(self, count: int) -> Tensor:
        """The correctly classified ones of the first `count` images, int64."""
        return self.correct[:count].nonzero()[:, 0]

    def answer(self, x: Tensor) -> Tensor:
        """Logits (N, K) without gradients, in pieces; NaN is a `NetworkFault`."""
        with torch.no_grad():
            logits = torch.cat([self.network(part) for part in torch.split(x, self.at_once)])
        bad = int((~logits.isfinite()).any(1).sum())
        if bad:
            raise NetworkFault(f"It returns NaN or infinite logits for {bad} of {len(x)} images.")
        return logits

    def margins(self, x: Tensor, y: Tensor) -> Tensor:
        """Largest wrong logit minus the true one at `x`, (N,); positive where the network errs."""
        return margin(self.answer(x), y)

    def slope(
        self, x: Tensor, y: Tensor, aim: Tensor | None = None, source: Counting | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and the gradient of the margin, like `x`, in pieces; 0 where it is missing, NaN or infinite.

        The margin is that of the classes `aim`, int64 (N,), or of the largest wrong logit. Of the other network where
        `source` is given; raises `BadInput` where that one fails.
        """
        found = []
        for rows in torch.split(torch.arange(len(x), device=x.device), self.at_once):
            given, labels = x[rows], y[rows]
            point = given.clone().requires_grad_()
            try:
                with torch.enable_grad():
                    logits = (source or self.network)(point)
                    if source is not None and not logits.requires_grad:
                        raise NetworkFault("its logits have no gradient to its input")
                    loss = margin(logits, labels) if aim is None else margin_targeted(logits, labels, aim[rows])
                    (grad,) = torch.autograd.grad(loss.sum(), point, allow_unused=True)
            except torch.OutOfMemoryError:
                raise
            except (NetworkFault, *FAULTS) as error:
                said = str(error) if isinstance(error, NetworkFault) else f"Its backward pass raises {reason(error)}."
                if source is not None:
                    raise BadInput(f"examples cannot be made on the other network: {said.rstrip('.')}") from error
                raise NetworkFault(said) from error
            grad = torch.zeros_like(given) if grad is None else torch.where(grad.isfinite(), grad, 0)
            found.append((logits.detach(), grad))
        return torch.cat([logits for logits, _ in found]), torch.cat([grad for _, grad in found])

    def attack(self, attack: Attack, rows: Tensor, purpose: str, threat: ThreatModel | None = None) -> Tensor:
        """Which of the images at `rows` the attack breaks, bool; what it returned is judged again.

        At the battery's own threat what is broken stays known in `broken`.
        """
        ball = threat or self.threat
        fallen = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for part in torch.split(torch.arange(len(rows), device=rows.device), self.at_once) if len(rows) else ():
            x, y = self.x[rows[part]], self.y[rows[part]]
            streams = PerSample.of(self.seed, [self.ids[i] for i in rows[part].tolist()], "trust", purpose)
            try:
                x_adv = attack(self.network, x, y, ball, streams)
            except (NetworkFault, torch.OutOfMemoryError):
                raise
            except (BadInput, RuntimeError) as error:
                raise NetworkFault(f"A white-box attack stops: {reason(error)}.") from error
            fallen[part] = ball.contains(x, x_adv) & (self.answer(x_adv).argmax(1) != y)
        if threat is None:
            self.broken[rows[fallen]] = True
        return fallen


def images_at_once(shape: tuple[int, ...]) -> int:
    """How many images of shape (C, H, W) go through the network together."""
    return max(1, min(MOST_AT_ONCE, AT_ONCE // max(1, int(np.prod(shape)))))


def sample(images: Images, count: int, device: torch.device) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Ids, pixels and labels of the first `count` images."""
    parts = list(images.head(count).batches(images_at_once(images.shape)))
    ids = tuple(sample_id for part in parts for sample_id in part[0])
    return ids, torch.cat([x for _, x, _ in parts]).to(device), torch.cat([y for _, _, y in parts]).to(device)


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[Callable[[], list[str]]]:
    """Eval mode and frozen parameters; afterwards modes, buffers and every global generator are as they were.

    Yields a function that names the buffers that have moved since.
    """
    kept = KeptBuffers(model)
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), crafting(model):
            yield kept.moved
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        kept.restore()


def reseed(seed: int, purpose: str) -> None:
    """Start every global generator anew, so that one check's draws do not depend on the others."""
    number = derive(seed, "trust", purpose)
    torch.manual_seed(number)
    random.seed(number)
    np.random.seed(number % 2**32)
