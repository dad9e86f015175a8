"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690) through its reference implementation, the package pyautoattack.

torchattacks has an attack of the same name whose members take 10 steps where the standard has 100. It is another,
weaker attack, so neither its figures nor its times are put beside these.
"""

import logging
import math
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import FunctionType
from typing import Any

import torch
from pyautoattack import fab_base
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.base import Attack, Described, MostPasses, describe, info_of, later
from satbench.attacks.foreign import UNIT, in_units
from satbench.attacks.gradient import BLACK_BOX
from satbench.attacks.hyperplane import project_linf
from satbench.attacks.losses import margin, margin_targeted
from satbench.attacks.stages import run_stages
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.parameters import Count, check_fields
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo

LOG = logging.getLogger("satbench.attacks.autoattack")
COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
VERSIONS: dict[str, tuple[str, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
    "custom": (),
}
DLR_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # it divides by the gap to the 3rd, targeted to the 3rd and 4th logit


@dataclass(frozen=True, repr=False)
class AutoAttackComponent(Described):
    """One attack of the ensemble, at the settings that AutoAttack's `version` gives it.

    "apgd-ce", "apgd-dlr", "apgd-t" (on the likeliest wrong classes), "fab", "fab-t" and "square" (black box). 100
    iterations, 5,000 queries for square. One restart in "standard" and "rand", five of apgd and fab in "plus" and
    "custom"; in L1 the standard has five of apgd too and shrinks the radius from 3 eps. "rand" averages 20 gradients.

    Its random numbers hang together for `unit` images. With K classes at most K - 1 are targets, and where the DLR loss
    is undefined, below 3 or targeted 4, the margin takes its place. Raises `BadInput` for a model without gradients.
    """

    name: str
    unit: Count = UNIT
    version: str = later("standard")

    def __post_init__(self) -> None:
        for what, value, known in (("component", self.name, COMPONENTS), ("version", self.version, VERSIONS)):
            if value not in known:
                raise BadInput(f"unknown {what} {value!r} of autoattack; {nearest(value, known)}")
        check_fields(self, self.name)

    @property
    def info(self) -> AttackInfo:
        if self.name == "square":  # alone it bounds less than PGD does, though AutoAttack has it
            return describe(self, self.name, "score", "another attack", "Square")
        return describe(self, self.name, "gradient", "part of AutoAttack", self.name.upper())

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        def craft(images: Tensor, labels: Tensor, seed: int) -> Tensor:
            with torch.no_grad():
                classes = model(images[:1]).shape[1]
            if classes < DLR_CLASSES.get(self.name, 2):
                LOG.info("%s ascends the margin, because DLR is undefined for %d classes", self.name, classes)
            network = _Network(model)
            found: Tensor = self._reference(network, classes, threat, seed, images.device).perturb(images, labels)
            return found

        return in_units(craft, self.unit, self.name, model, x, y, threat, randomness)

    def most_passes(self, norm: str, classes: int) -> MostPasses:
        """See `Attack`; counted in the reference's source."""
        if self.name == "square":
            return MostPasses(5004, 0)
        shrinking, thorough = norm == "L1" and self.version == "standard", self.version in ("plus", "custom")
        targets = min(5 if shrinking and self.name == "apgd-t" else 9, classes - 1)
        if self.name == "fab-t":
            return MostPasses(203 * targets + 2, 100 * targets, 0.5)
        if self.name == "fab":  # a backward pass for every class
            restarts = 5 if thorough else 1
            return MostPasses(203 * restarts + 1, 100 * classes * restarts, 0.5)
        restarts = 5 if thorough or shrinking else 1
        steps = 103 if shrinking else 101
        if self.name == "apgd-t":
            return MostPasses((steps + 1) * targets + 2, steps * targets, 0.5)
        steps *= 20 if self.version == "rand" else 1
        return MostPasses(steps * restarts + 2, steps * restarts, 1.0 / restarts)  # a run stops for no image

    def _reference(self, predict: Any, classes: int, threat: ThreatModel, seed: int, device: torch.device) -> Any:
        shared: dict[str, Any] = {
            "norm": threat.norm,
            "eps": threat.eps,
            "seed": seed,
            "device": device,
            "verbose": False,
        }
        shrinking = threat.norm == "L1" and self.version == "standard"
        thorough = self.version in ("plus", "custom")
        if self.name == "square":
            return _Square(predict, n_queries=5000, p_init=0.8, n_restarts=1, resc_schedule=False, **shared)
        if self.name.startswith("fab"):
            targeted = self.name == "fab-t"
            return _FAB(
                predict,
                n_restarts=5 if thorough and not targeted else 1,
                n_iter=100,
                targeted=targeted,
                n_target_classes=min(9, classes - 1),
                **shared,
            )
        shared |= {"n_iter": 100, "rho": 0.75, "use_largereps": shrinking, "logger": _ZeroGradients(self.name)}
        if self.name == "apgd-t":
            return _TargetedAPGD(
                predict, n_restarts=1, eot_iter=1, n_target_classes=min(5 if shrinking else 9, classes - 1), **shared
            )
        return _APGD(
            predict,
            n_restarts=5 if thorough or shrinking else 1,
            eot_iter=20 if self.version == "rand" else 1,
            loss=self.name.removeprefix("apgd-"),
            **shared,
        )


apgd_ce, apgd_dlr, apgd_t, fab, fab_t, square = (partial(AutoAttackComponent, name) for name in COMPONENTS)


@dataclass(frozen=True, repr=False)
class AutoAttack(Described):
    """The ensemble at its authors' settings; `components`, joined by "+", belong to version "custom" alone.

    Each component attacks the clean images that the earlier ones left standing, see `AutoAttackComponent`. Version
    "rand" is for models that draw random numbers. The seed comes from the run, never from the clock.
    """

    version: str = "standard"
    components: str = ""
    unit: Count = UNIT

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise BadInput(f"unknown version {self.version!r} of autoattack; {nearest(self.version, VERSIONS)}")
        if (self.version == "custom") != bool(self.components):
            raise BadInput(
                "autoattack takes components with version=custom only: version=custom,components=apgd-ce+square"
            )
        check_fields(self, "autoattack")
        assert self.stages  # built once here, so that a wrong name is refused

    @property
    def stages(self) -> tuple[Attack, ...]:
        names = VERSIONS[self.version] or tuple(str(self.components).split("+"))
        return tuple(AutoAttackComponent(name, self.unit, self.version) for name in names)

    @property
    def info(self) -> AttackInfo:
        label = " ".join(filter(None, ("AutoAttack", self.version, self.components)))
        if self.version in ("standard", "plus"):
            return describe(self, "autoattack", "ensemble", "AutoAttack", label)
        if len(self.stages) > 1:
            return describe(self, "autoattack", "ensemble", "part of AutoAttack", label)
        alone = info_of(self.stages[0])
        return describe(self, "autoattack", alone.kind, alone.tier, label)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return run_stages(self.stages, model, x, y, threat, randomness)


class _Network:
    """The model as the reference calls it."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def __call__(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images)
        if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise BadInput(f"the model's logits have no gradient to its input; {BLACK_BOX}")
        return logits


class _ZeroGradients:
    """Stands in for a logger: the one thing APGD reports is a gradient of exactly zero, at every restart again."""

    def __init__(self, name: str) -> None:
        self.name, self.said = name, False

    def warning(self, message: str) -> None:
        if not self.said:
            LOG.warning(
                "%s met images whose gradient is exactly zero, so attacks that follow gradients may be blind there",
                self.name,
            )
        self.said = True


class _APGD(APGDAttack):  # type: ignore[misc]
    def dlr_loss(self, logits: Tensor, y: Tensor) -> Any:
        return super().dlr_loss(logits, y) if logits.shape[1] >= 3 else margin(logits, y)


class _TargetedAPGD(APGDAttack_targeted):  # type: ignore[misc]
    def dlr_loss_targeted(self, logits: Tensor, y: Tensor) -> Any:
        if logits.shape[1] >= 4:
            return super().dlr_loss_targeted(logits, y)
        return margin_targeted(logits, y, self.y_target)


class _FAB(FABAttack_PT):  # type: ignore[misc]
    """FAB with a faster projection in Linf, which keeps what it has found for an image when it meets a gradient of NaN.

    The reference's iterate turns into NaN then, and with it the best example. It can deal with a gradient of zero.
    """

    # the reference's loop, which looks up the projection as a global name of its module
    attack_single_run = FunctionType(
        fab_base.FABAttack.attack_single_run.__code__,
        {**vars(fab_base), "projection_linf": partial(project_linf, reference=fab_base.projection_linf)},
        argdefs=fab_base.FABAttack.attack_single_run.__defaults__,
    )

    def get_diff_logits_grads_batch(self, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return _finite(*super().get_diff_logits_grads_batch(images, y))

    def get_diff_logits_grads_batch_targeted(self, images: Tensor, y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        return _finite(*super().get_diff_logits_grads_batch_targeted(images, y, target))


def _finite(gaps: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Gaps of logits (N, K) and their gradients (N, K, C, H, W); a pair that is not finite is out of reach and flat."""
    if (gaps.sum() + gradients.sum()).isfinite():  # one pass over memory; a sum may also overflow
        return gaps, gradients
    spoiled = ~gradients.flatten(2).isfinite().all(2) | ~gaps.isfinite()
    gaps[spoiled], gradients[spoiled] = 1e10, 0
    return gaps, gradients


class _Square(SquareAttack):  # type: ignore[misc]
    """Square for every image size and every model, in Linf with less work for a query.

    In L2 and L1 the reference starts from a pattern of tiles that overruns some sizes (12, 14, 18, 19, 24 rows, fewer
    than 5, some that are not square): such an image is attacked with a border that the model never sees.
    """

    def attack_single_run(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if self.norm == "Linf":
            with torch.no_grad():
                return self._search_linf(x, y)
        height, width = x.shape[2:]
        rows, columns = _tiled_size(height, width)
        queries, found = super().attack_single_run(functional.pad(x, (0, columns - width, 0, rows - height)), y)
        return queries, found[:, :, :height, :width]

    def _search_linf(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of each image and the best images: the reference's, from the same random numbers.

        Only the pixels of a query's square are computed, and images that are misclassified leave the batch.
        """
        n, channels, height, width = x.shape
        low, high = (x - self.eps).clamp_(0, 1), (x + self.eps).clamp_(0, 1)
        found = (x + self.eps * self.random_choice([n, channels, 1, width])).clamp_(0, 1)
        margins, _ = self.margin_and_loss(found, y)
        queries = torch.where(margins > 0, self.n_queries + 1, 1)
        standing = (margins > 0).nonzero()[:, 0]
        best, low, high, y, margins = (part[standing] for part in (found, low, high, y, margins))
        for query in range(self.n_queries):
            if not len(standing):
                break
            area = self.p_selection(query) * x[0].numel() / channels  # rounded as in the reference
            side = min(max(round(math.sqrt(area)), 1), height, width)
            draws = torch.rand(2 + channels)
            top, left = (draws[:1] * (height - side)).long().item(), (draws[1:2] * (width - side)).long().item()
            square = (..., slice(top, top + side), slice(left, left + side))
            change = 2 * self.eps * (2 * draws[2:] - 1).sign().view(channels, 1, 1).to(x.device)
            window = best[square]
            before = window.clone()
            after = torch.clamp(before + change, low[square], high[square])
            window.copy_(after)
            tried, _ = self.margin_and_loss(best, y)
            better = tried < margins
            margins = torch.where(better, tried, margins)
            window.copy_(torch.where(better.view(-1, 1, 1, 1), after, before))
            if margins.min().item() <= 0:
                fallen, left_over = (margins <= 0).nonzero()[:, 0], (margins > 0).nonzero()[:, 0]
                found[standing[fallen]], queries[standing[fallen]] = best[fallen], query + 2
                standing, best, low, high = (part[left_over] for part in (standing, best, low, high))
                y, margins = y[left_over], margins[left_over]
        found[standing] = best
        return queries, found

    def margin_and_loss(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The reference writes into the logits, and fails on no images, which it asks about after margins of zero."""
        if not len(x):
            return x.new_zeros(0), x.new_zeros(0)
        _, height, width = self.orig_dim
        margins = -margin(self.predict(x[:, :, :height, :width].contiguous()), y)
        return margins, margins


def _tiled_size(height: int, width: int) -> tuple[int, int]:
    """The least size from this one up whose tiles, a fifth of the height from the reference's offset on, all fit."""

    def offset(rows: int) -> int:
        return 0 if rows < 10 else rows % 5 // 2  # tiles of one pixel never overrun

    rows = next(rows for rows in count(max(height, 5)) if rows % (rows // 5) >= offset(rows))
    return rows, next(columns for columns in count(width) if columns % (rows // 5) >= offset(rows))
