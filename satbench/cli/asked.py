"""What is asked of an evaluation, checked and said in a line before torch is imported."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from satbench.cli import options
from satbench.core.devices import check_device

if TYPE_CHECKING:
    from satbench.specs.evaluation import EvaluationSpec


def stated(params: Mapping[str, Any]) -> "EvaluationSpec":
    """The spec that the options of a command make, with attacks as they are spelled.

    Raises `BadInput` for unknown attacks, data sets, devices and networks of the registry, and for values that a spec
    refuses. What remains is for `make_request`, `load` and the data set.
    """
    from satbench.specs.evaluation import EvaluationSpec
    from satbench.specs.names import check_attack, check_data_path, check_data_set, check_model, numbers, threats

    check_device(params["device"])
    for attack in params["attack"] or ():
        check_attack(attack)
    for option in ("steps", "restarts"):
        numbers(params[option], option)
    for model in (params["model"], params["source"]):
        if model is not None:
            check_model(model)
    if params["dataset"] is not None:
        check_data_set(params["dataset"])
        check_data_path(params["dataset"], params["data_dir"])
    chosen = threats(params["threat"] or (), params["norm"], params["eps"])
    attacks = {"attacks": params["attack"]} if params["attack"] else {}
    return EvaluationSpec(model=params["model"], threats=chosen, **attacks, **options.spec_fields(params))


def in_words(spec: "EvaluationSpec") -> str:
    """Attacks, threats and images."""
    from satbench.core.eps import format_eps

    attacks = ", ".join(map(str, spec.attacks))
    at = [
        f"{one} at the training radius" if isinstance(one, str) else f"{one.norm} {format_eps(one.eps)}"
        for one in spec.threats
    ]
    images = "all images" if spec.n is None else f"{spec.n} images"
    return f"{attacks}, {', '.join(at)}, {images}"
