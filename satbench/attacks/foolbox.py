"""The attacks of the package foolbox (Rauber et al. 2020, doi 10.21105/joss.02607) by their names there."""

import inspect
import logging
import types
import warnings
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor, nn

from satbench.attacks.base import Described, scalars, spelled
from satbench.attacks.foreign import UNIT, in_units
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.parameters import Count, FromZero, Steps, check, check_fields
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo, effort

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # 3.3.4 imports names that SciPy has deprecated
    import foolbox
    from foolbox.attacks.base import FixedEpsilonAttack, FlexibleDistanceMinimizationAttack, MinimizationAttack
    from foolbox.models.pytorch import PyTorchModel

LOG = logging.getLogger("satbench.attacks.foolbox")
REFUSED = {
    "BinarizationRefinementAttack": "it only refines the examples of another attack",
    "DatasetAttack": "it returns images of a data set, which an attack is not given",
    "GenAttack": "it is a targeted attack only",
    "L0BrendelBethgeAttack": "it counts changed pixels (L0), and threats are Linf, L2 or L1",
    "L0FMNAttack": "it counts changed pixels (L0), and threats are Linf, L2 or L1",
    "SpatialAttack": "it turns and shifts images, which leaves every norm ball",
}
# modules of foolbox whose attacks ask the network for decisions alone; all others follow gradients
DECISIONS = (
    "additive_noise",
    "blended_noise",
    "blur",
    "boundary_attack",
    "contrast",
    "contrast_min",
    "hop_skip_jump",
    "inversion",
    "pointwise",
    "saltandpepper",
)
SET_HERE = ("channel_axis", "distance", "init_attack", "tensorboard")  # known to the adapter, or objects
LP = {"Linf": foolbox.distances.linf, "L2": foolbox.distances.l2, "L1": foolbox.distances.l1}
# attacks that walk from an example to the image, and where foolbox has them begin
STARTS: dict[str, tuple[str, dict[str, int]]] = {
    "BoundaryAttack": ("LinearSearchBlendedUniformNoiseAttack", {"steps": 50}),
    "HopSkipJumpAttack": ("LinearSearchBlendedUniformNoiseAttack", {"steps": 50}),
    "L1BrendelBethgeAttack": ("LinearSearchBlendedUniformNoiseAttack", {}),
    "L2BrendelBethgeAttack": ("LinearSearchBlendedUniformNoiseAttack", {}),
    "LinfinityBrendelBethgeAttack": ("LinearSearchBlendedUniformNoiseAttack", {}),
    "PointwiseAttack": ("SaltAndPepperNoiseAttack", {}),
}


@dataclass(frozen=True, repr=False)
class Foolbox(Described):
    """One of foolbox's attacks, by class name ("LinfDeepFoolAttack") or foolbox's short name ("LinfPGD").

    `stated` are parameters of its constructor; `parameters` adds foolbox's defaults, so that the step size is always
    part of the identity. A minimum-norm attack is given eps, and counts inside it alone. Where it walks from an example
    to the image, an image for which foolbox finds no first example comes back clean. Random numbers hang together for
    `unit` images. Raises `BadInput` for an attack that needs more than a model and labels, for unknown parameters or
    values, and on a call for a norm that is not the attack's.
    """

    name: str
    stated: InitVar[Mapping[str, object] | None] = None
    unit: Count = UNIT
    parameters: tuple[tuple[str, object], ...] = field(init=False)

    def __post_init__(self, stated: Mapping[str, object] | None) -> None:
        cls = _class(self.name)
        object.__setattr__(self, "name", cls.__name__)
        object.__setattr__(self, "parameters", _complete(cls, dict(stated or {})))
        check_fields(self, f"foolbox:{self.name}")
        self._build()

    @property
    def info(self) -> AttackInfo:
        params = {**dict(self.parameters), "unit": self.unit}
        module = _class(self.name).__module__.rpartition(".")[2]
        return AttackInfo(
            id=spelled("Foolbox", {"name": self.name, **params}),
            name=f"foolbox:{self.name}",
            params=scalars(params),
            kind="decision" if module in DECISIONS else "gradient",
            tier="another attack",
            effort=effort(params),
            label=f"foolbox {self.name}",
        )

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        attack = self._build()
        norms = self._norms(attack)
        if threat.norm not in norms:
            raise BadInput(
                f"foolbox:{self.name} measures in {' or '.join(norms)}, not in {threat.norm}; use --norm {norms[0]}"
            )
        self._state_step(threat.eps)

        def craft(images: Tensor, labels: Tensor, seed: int) -> Tensor:
            theirs = PyTorchModel(model, bounds=(0, 1), device=images.device)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = self._run(attack, theirs, images, labels, threat.eps)
            inside: Tensor = LP[threat.norm].clip_perturbation(images, found, threat.eps)
            return inside

        return in_units(craft, self.unit, f"foolbox:{self.name}", model, x, y, threat, randomness)

    def _run(self, attack: Any, model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
        limit = {"epsilon" if isinstance(attack, FixedEpsilonAttack) else "early_stop": eps}
        if self.name not in STARTS:
            found: Tensor = attack.run(model, x, foolbox.criteria.Misclassification(y), **limit)
            return found
        name, parameters = STARTS[self.name]
        start = getattr(foolbox.attacks, name)(**parameters).run(model, x, foolbox.criteria.Misclassification(y))
        started = (model(start).argmax(1) != y).nonzero()[:, 0]
        if len(started) < len(x):
            LOG.info("foolbox:%s found no example to start from for some images, which count as standing", self.name)
        x_adv = x.clone()
        if len(started):
            criterion = foolbox.criteria.Misclassification(y[started])
            x_adv[started] = attack.run(model, x[started], criterion, starting_points=start[started], **limit)
        return x_adv

    def _build(self) -> Any:
        try:
            return _class(self.name)(**dict(self.parameters))
        except ModuleNotFoundError as error:
            raise BadInput(f"foolbox:{self.name} needs the package {error.name}; install it") from error
        except (TypeError, ValueError) as error:
            raise BadInput(f"foolbox:{self.name}: {str(error).splitlines()[0]}") from error

    def _norms(self, attack: Any) -> list[str]:
        if isinstance(attack, FlexibleDistanceMinimizationAttack):
            return list(LP)
        if self.name == "HopSkipJumpAttack":  # its `distance` says L1, but it walks in the norm of its constraint
            return [{"l2": "L2", "linf": "Linf"}[attack.constraint]]
        return [norm for norm, distance in LP.items() if distance.p == attack.distance.p]

    def _state_step(self, eps: float) -> None:
        values: dict[str, Any] = dict(self.parameters)
        if "steps" in values and ("rel_stepsize" in values or "abs_stepsize" in values):
            step = values["abs_stepsize"] if "abs_stepsize" in values else values["rel_stepsize"] * eps
            LOG.info(
                "foolbox:%s takes %d steps of %.4g at eps %.4g, %.3g eps in all",
                self.name,
                values["steps"],
                step,
                eps,
                values["steps"] * step / eps if eps else 0,
            )


def parameters_of(name: str) -> list[str]:
    """The keys that the named attack takes; raises `BadInput` for an unknown name."""
    return [*_signature(_class(name)), "unit"]


def names() -> list[str]:
    """Every attack that can be run, by class name."""
    return sorted({cls.__name__ for cls in _every().values()} - set(REFUSED))


def _every() -> dict[str, Any]:
    kinds = (FixedEpsilonAttack, MinimizationAttack)
    return {
        name: cls
        for name, cls in vars(foolbox.attacks).items()
        if inspect.isclass(cls) and (issubclass(cls, kinds) or name in REFUSED)
    }


def _class(name: str) -> Any:
    every = _every()
    if name not in every:
        raise BadInput(f"unknown attack 'foolbox:{name}'; {nearest(name, every)}")
    if name in REFUSED:
        raise BadInput(f"foolbox:{name} cannot be run here: {REFUSED[name]}")
    return every[name]


def _signature(cls: Any) -> dict[str, inspect.Parameter]:
    """The constructor's parameters that a key=value can state."""
    return {key: value for key, value in inspect.signature(cls).parameters.items() if key not in SET_HERE}


def _complete(cls: Any, stated: dict[str, object]) -> tuple[tuple[str, object], ...]:
    """The stated parameters and foolbox's defaults for the rest, checked, in the order of the constructor."""
    name, signature = f"foolbox:{cls.__name__}", _signature(cls)
    hints = get_type_hints(cls.__init__)
    for key, value in stated.items():
        if key not in signature:
            hint = nearest(key, signature) if signature else "it takes none"
            raise BadInput(f"unknown parameter {key!r} of {name}; {hint}")
        check(f"{key} of {name}", value, _bounded(hints[key]))
    complete = {key: stated.get(key, parameter.default) for key, parameter in signature.items()}
    for key, value in complete.items():
        if value is inspect.Parameter.empty:
            raise BadInput(f"{name} has no default for {key}; write {name}:{key}=VALUE")
    if complete.get("abs_stepsize") is not None:
        if "rel_stepsize" in stated:
            raise BadInput(f"{name} takes rel_stepsize (in units of eps) or abs_stepsize, not both")
        del complete["rel_stepsize"]
    elif "abs_stepsize" in complete:
        del complete["abs_stepsize"]
    return tuple(complete.items())


def _bounded(hint: Any) -> Any:
    """The type of a parameter with the bounds that foolbox's own hints leave out."""
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(map(_bounded, get_args(hint)))]  # noqa: UP007  # made at run time
    return {int: Steps, float: FromZero}.get(hint, hint)
