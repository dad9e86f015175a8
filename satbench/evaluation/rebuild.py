"""Attacks, and the whole evaluation, from what a run says of them."""

from collections.abc import Sequence

from satbench.attacks import Attack, build_attack, is_own
from satbench.attacks.base import info_of
from satbench.core.errors import BadInput
from satbench.core.plugins import is_allowed
from satbench.evaluation.search import WRAPPERS
from satbench.results.schema import Manifest
from satbench.specs.attack import AttackInfo
from satbench.specs.evaluation import EvaluationSpec


def rebuild(info: AttackInfo, given: Sequence[Attack] = ()) -> Attack | None:
    """The attack of this id: one of `given`, or one of satbench's own from its name and parameters.

    None where there is none of this id. An attack from outside is imported only where its module is allowed, see
    `core.plugins`, because a run folder must not decide which code runs.
    """
    for attack in given:
        if info_of(attack).id == info.id:
            return attack
    try:
        if info.wraps is not None:
            inner = rebuild(info.wraps, given)
            if inner is None:
                return None
            built: Attack = WRAPPERS[info.name](inner, **info.params)
        elif is_own(info.name) or is_allowed(info.name):
            built = build_attack(info.name, info.params)
        else:
            return None
    except (BadInput, KeyError, TypeError):
        return None
    return built if info_of(built).id == info.id else None


def spec_of(manifest: Manifest) -> EvaluationSpec:
    """The evaluation that repeats a run, with nothing left to be decided. A `source` is label and digest alone."""
    layers = [layer for info in manifest.attacks for layer in info.layers]
    sources = [layer.params["source"] for layer in layers if layer.name == "transfer"]
    return EvaluationSpec(
        model=manifest.model.ref,
        checkpoint=manifest.model.checkpoint,
        source=sources[0] if sources else None,
        dataset=manifest.data.name,
        **manifest.data.model_dump(include={"split", "image_size", "loader", "n"}),
        attacks=[_searching(info) for info in manifest.attacks],
        threats=manifest.threats,
        **manifest.model_dump(include={"seed", "batch_size", "draws", "threads"}),
        search=manifest.search.form,
        save_examples=manifest.examples,
        trust=manifest.trust is not None,
    )


def _searching(info: AttackInfo) -> AttackInfo:
    """The attack without what its id says of where it searched."""
    return _searching(info.wraps) if info.wraps and info.name in ("bf16", "surrogate", "transfer") else info
