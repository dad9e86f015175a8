"""What a few seconds on this device tell of an attack: seconds a pass, and how many images stand."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from satbench.attacks import PGD, Attack
from satbench.attacks.base import crafting, most_passes_of
from satbench.data import Images
from satbench.evaluation.counting import Counted
from satbench.numerics.seeding import PerSample
from satbench.numerics.threat import ThreatModel

# nearer to AutoAttack's answer than as many passes of PGD with one loss for all classes
PILOT = PGD(steps=5, loss="margin-targeted", n_targets=4, schedule="cosine")
STEPS = 20  # of a PGD that is its own pilot
SECONDS = 2.0  # after which no further images are attacked by `pilot`
FIRST = 32  # images that it attacks at first
WINDOW = 0.7  # seconds for which an attack is timed
A_PASS = 0.1  # seconds that a timed forward pass takes at most, or as long as one of FIRST images
HARMLESS = 1e-3  # of the radius, in which images are timed, so that none breaks and leaves


class Clock:
    """Seconds of computing on a device.

    On a CPU with one thread they are those of this process, which do not depend on what else the machine does; two
    readings are compared only where the number of threads was the same.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif torch.get_num_threads() == 1:
            return time.process_time()
        return time.perf_counter()


@dataclass(frozen=True)
class Standing:
    """Of `images` images, how many are classified correctly, and how many of these stand at each radius, by its eps.

    when_broken: the share of the pilot's passes that an image took that broke; None where none did.
    """

    images: int
    correct: int
    stood: dict[float, int]
    when_broken: float | None


def pilot_of(attack: Attack) -> PGD:
    """The attack that says how many images another one will leave: of PGD itself with fewer steps, else `PILOT`."""
    if not isinstance(attack, PGD) or attack.keep == "last" or not attack.early_stop:
        return PILOT
    steps = min(attack.steps, STEPS) if attack.step_size is None else attack.steps
    return replace(attack, steps=steps, restarts=1)


def pilot(
    attack: PGD, model: nn.Module, images: Images, threats: Sequence[ThreatModel], seed: int, clock: Clock
) -> Standing:
    """Attack randomly chosen images at growing radii of one norm for about two seconds.

    An image that breaks at a radius is not attacked at a larger one.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)).tolist()
    seen = correct = 0
    stood = {threat.eps: 0 for threat in threats}
    broken: list[float] = []
    started, size = clock(), FIRST
    while seen < len(order) and (not seen or clock() - started < SECONDS):
        ids, x, y = _taken(images, order[seen : seen + size], clock.device)
        seen, size = seen + len(ids), min(256, 2 * size)
        standing = (_predicted(model, x) == y).nonzero()[:, 0]
        correct += len(standing)
        for threat in threats:
            if len(standing) and threat.eps:
                counted = Counted(model, 256)
                counted.watch(x[standing], y[standing], threat)
                streams = PerSample.of(seed, [ids[i] for i in standing.tolist()], "cost")
                x_adv = attack(counted.watched, x[standing], y[standing], threat, streams)
                fell = _predicted(model, x_adv) != y[standing]
                forward, backward, _ = counted.counts()
                most = most_passes_of(attack, threat.norm, images.num_classes)
                broken += ((forward + backward)[fell] / (most.forward + most.backward)).tolist()
                standing = standing[~fell]
            stood[threat.eps] += len(standing)
    return Standing(seen, correct, stood, sum(broken) / len(broken) if broken else None)


def seconds_a_pass(
    model: nn.Module, attack: Attack, images: Images, count: int, threat: ThreatModel, seed: int, clock: Clock
) -> float:
    """Seconds of a forward or backward pass of one image in the attack, all that it computes beside them included.

    The attack runs for a moment on `count` images, or fewer where these take long, which count as what the model takes
    them for.
    """
    first = list(range(min(FIRST, count, len(images))))
    _, x, _ = _taken(images, first, clock.device)
    _predicted(model, x)  # the first pass also allocates
    started = clock()
    _predicted(model, x)
    an_image = max((clock() - started) / len(first), 1e-9)
    rows = max(len(first), min(count, len(images), int(A_PASS / an_image)))
    ids, x, _ = _taken(images, list(range(rows)), clock.device)
    y = _predicted(model, x)
    stopwatch = _Stopwatch(model, clock)
    counted = Counted(stopwatch, 256)
    harmless = ThreatModel(threat.norm, threat.eps * HARMLESS)
    try:
        while not stopwatch.is_over():
            before = stopwatch.calls
            counted.watch(x, y, harmless)
            attack(counted.watched, x.clone(), y.clone(), harmless, PerSample.of(seed, ids, "cost"))
            if stopwatch.calls == before:  # it asks the network nothing
                return 0.0
    except _Enough:
        pass
    return stopwatch.seconds / stopwatch.passes


class _Enough(Exception):
    """Ends an attack that was timed for long enough."""


class _Stopwatch(nn.Module):
    """The model, which counts rows that go forward and backward and ends the attack after `WINDOW` seconds.

    What precedes the end of its second pass is not timed. A backward pass is taken to follow wherever it can.
    """

    def __init__(self, model: nn.Module, clock: Clock) -> None:
        super().__init__()
        self.model, self.clock = model, clock
        self.calls = self.passes = self.pending = 0
        self.started = self.seconds = 0.0

    def is_over(self) -> bool:
        """Stops the time, for the passes that have ended."""
        if self.calls < 3:
            return False
        self.seconds, self.passes = self.clock() - self.started, self.passes + self.pending
        self.pending = 0
        return self.seconds > WINDOW and self.passes > 0

    def forward(self, x: Tensor) -> Tensor:
        if self.is_over():
            raise _Enough
        logits: Tensor = self.model(x)
        self.calls += 1
        if self.calls == 2:
            self.started = self.clock()
            self.pending = len(x) if logits.requires_grad else 0  # its backward pass is timed
        elif self.calls > 2:
            self.pending += 2 * len(x) if logits.requires_grad else len(x)
        return logits


def _taken(images: Images, rows: Sequence[int], device: torch.device) -> tuple[tuple[str, ...], Tensor, Tensor]:
    ids, x, y = next(iter(images.take(rows).batches(len(rows))))
    return ids, x.to(device), y.to(device)


def _predicted(model: nn.Module, x: Tensor) -> Tensor:
    with crafting(model), torch.no_grad():
        predicted: Tensor = model(x).argmax(1)
        return predicted
