"""PGD on a kNN read-out, led by stored representations, since votes have no gradient.

The attack of Chen et al. 2020 (ICASSP, arXiv 1911.06470), whose own module was not released, after the library that it
builds on, of Sitawarin & Wagner 2020 (arXiv 2003.06559).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from satbench.attacks.base import Described, MostPasses, crafting, describe
from satbench.attacks.gradient import finite, input_gradient
from satbench.core.eps import default_step
from satbench.core.errors import BadInput
from satbench.core.parameters import Count, Positive, Steps, check_fields
from satbench.numerics.seeding import Randomness, rows
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo, effort, label_with_counts


@dataclass(frozen=True, repr=False)
class KNNGuided(Described):
    """Signed gradient steps that lead the representation out of its class and into another one.

    Guides are the `guides / 2` nearest stored representations of the true class and as many of the wrong class whose
    are nearest in the mean. With d_j the squared distance to guide j, T that to the k-th neighbour, and w_j = 1 for the
    true and -1 for the wrong class, the attack descends sum_j max(0, w_j (T - d_j)): guides of the true class leave the
    neighbourhood, the others enter it. It returns the first iterate that is misclassified, else the one with the fewest
    votes for the true class.

    steps: gradient steps a restart; 20 in the authors' evaluation, 10 in their training.
    step_size: in the threat's own units; None means min(eps, 2.5 eps / steps). Theirs is 0.005 for normalised images.
    restarts: independent uniform starts; a later one runs only on the samples still standing.
    guides: None means 2 k, which breaks more on digits than the authors' 4 k, 300 for k = 75; at most twice as many as
        the smallest class has.

    Guides and T are chosen anew for every step; the library does it at every hundredth of its 500.

    For a network in which one layer has `bank` (M, D), `labels` int64 (M,) and `k`, takes representations (N, D) and
    gives votes (N, K), such as `models.knn.KNN`. Raises `BadInput` for any other.
    """

    steps: Steps = 20
    step_size: Positive | None = None
    restarts: Steps = 1
    guides: Count | None = None

    def __post_init__(self) -> None:
        check_fields(self, "an attack")

    @property
    def info(self) -> AttackInfo:
        label = label_with_counts("kNN-guided PGD", vars(self))
        return describe(self, "knn-guided", "gradient", "another attack", label, effort(vars(self)))

    def most_passes(self, norm: str, classes: int) -> MostPasses:
        """See `Attack`."""
        return MostPasses(self.restarts * (self.steps + 1), self.restarts * self.steps, 0.3)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        layer = _readout(model)
        best = x.clone()
        fewest = y.new_full(y.shape, int(layer.k) + 1)  # votes of the true class
        standing = torch.arange(len(x), device=x.device)
        with crafting(model):
            for _ in range(self.restarts):
                if len(standing):
                    standing = self._descend(model, layer, x, y, threat, randomness, standing, best, fewest)
        return best

    def _descend(
        self,
        model: nn.Module,
        layer: Any,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        randomness: Randomness,
        standing: Tensor,
        best: Tensor,
        fewest: Tensor,
    ) -> Tensor:
        """One restart on the rows `standing`: updates `best` and `fewest` in place, returns the rows left standing."""
        step = self.step_size or default_step(threat.eps, self.steps)
        x, y = x[standing], y[standing]
        ball = threat.around(x)
        x_adv = threat.random_start(x, rows(randomness, standing))
        for iteration in range(self.steps + 1):
            last = iteration == self.steps
            point = x_adv.detach().requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                z, votes = _pass(model, layer, point)
                fallen = votes.argmax(1) != y
                own = votes.gather(1, y[:, None])[:, 0].to(fewest.dtype)
                better = (fallen | (own < fewest[standing])).nonzero()[:, 0]
                best[standing[better]] = x_adv[better]
                fewest[standing[better]] = own[better]
                left = (~fallen).nonzero()[:, 0]
                standing, y = standing[left], y[left]
                if last or not len(standing):
                    break
                grad = input_gradient(-self._losses(z[left], y, layer), point)
            ball.keep(left)
            x_adv = ball.ascend(x_adv[left], finite(grad)[left], step)
        return standing

    def _losses(self, z: Tensor, y: Tensor, layer: Any) -> Tensor:
        """What is descended, (N,), for representations (N, D) whose neighbours are mostly of their class `y`."""
        bank, labels, k = layer.bank.to(z), layer.labels, int(layer.k)
        gaps = torch.cdist(z.detach(), bank, compute_mode="donot_use_mm_for_euclid_dist").square()
        radius = gaps.kthvalue(k, dim=1, keepdim=True).values
        present, sizes = labels.unique(return_counts=True)
        count = min(-(-(self.guides or 2 * k) // 2), int(sizes.min()))
        members = [(labels == one).nonzero()[:, 0] for one in present]
        found = [gaps[:, rows].topk(count, largest=False) for rows in members]
        nearest = torch.stack([rows[one.indices] for rows, one in zip(members, found, strict=True)], 1)
        apart = torch.stack([one.values.mean(1) for one in found], 1)
        true = torch.searchsorted(present, y)[:, None]
        wrong = apart.scatter(1, true, torch.inf).argmin(1, keepdim=True)
        total = z.new_zeros(len(z))
        for which, sign in ((true, 1), (wrong, -1)):
            guides = bank[nearest.gather(1, which[:, :, None].expand(-1, -1, count))[:, 0]]
            distances = (z[:, None] - guides).square().sum(2)
            total = total + (sign * (radius - distances)).clamp_min(0).sum(1)
        return total


def readouts(model: nn.Module) -> list[nn.Module]:
    """The layers of a network that classify by the nearest stored representations."""
    return [one for one in model.modules() if all(hasattr(one, name) for name in ("bank", "labels", "k"))]


def _readout(model: nn.Module) -> Any:
    found = readouts(model)
    if len(found) != 1:
        raise BadInput(
            "knn-guided is for networks that classify by the nearest stored representations, and this one has "
            f"{len(found) or 'no'} such layer{'s' * (len(found) > 1)}; make one by `satbench readout RUN knn`, or use "
            "another attack"
        )
    return found[0]


def _pass(model: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Representations (N, D) and votes (N, K) of the images."""
    given: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    try:
        votes = model(x)
    finally:
        hook.remove()
    return torch.cat(given), votes  # in pieces where the memory takes no more at once
