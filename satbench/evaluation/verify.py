"""Verifies a run from scratch: on another machine, by someone who does not trust its records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import crafting
from satbench.core.errors import BadInput
from satbench.core.plugins import check_allowed
from satbench.core.progress import Progress, silent
from satbench.data import Images, is_own_data, load_images
from satbench.evaluation import sweep
from satbench.evaluation.battery import quick_trust
from satbench.evaluation.classes import with_labels_of
from satbench.evaluation.consistency import (
    Stages,
    layout_faults,
    parts_faults,
    record_faults,
    timing_faults,
    trust_faults,
)
from satbench.evaluation.continued import continued
from satbench.evaluation.executor import Search, info_as_run, stages_as_run
from satbench.evaluation.fingerprint import numerics_fingerprint
from satbench.evaluation.judge import is_random, logits_of
from satbench.evaluation.provenance import revision, versions
from satbench.evaluation.reattack import Reattacked, reattack
from satbench.evaluation.rebuild import rebuild, spec_of
from satbench.evaluation.search import PROBE, TRANSFER, Transfer, search_on, source_name
from satbench.evaluation.sources import identified
from satbench.evaluation.stored import stored_faults
from satbench.numerics.device import resolve_device, using_threads
from satbench.results.schema import Manifest, Trust, Verdict
from satbench.results.store import Run, read_run
from satbench.specs.attack import TIERS, AttackInfo, ids
from satbench.specs.evaluation import EvaluationSpec
from satbench.zoo import Loaded, is_own_network, load

SAMPLE = 32  # images that each attack is run on again
# fields of `ModelInfo`, and those of them that also change when the training is made longer
FROM_FILE = ("activation", "method", "recipe", "seed", "trained_for", "extra_data", "config", "family")
OF_LENGTH = ("recipe", "config", "family")


@dataclass(frozen=True)
class Verified:
    """What of a run was computed again, and a sentence for each claim that did not hold.

    `clean` images, `broken` records with a stored example, and `attacked` records whose attack was run again, `exact`
    of which had to be the same; of the others `differing` differ, no more than two honest runs do. `unproven` records
    have no example: those of images that stand. `skipped` says what could not be checked.
    """

    clean: int
    broken: int
    attacked: int
    exact: int
    differing: int
    unproven: int
    skipped: list[str]
    faults: list[str]


def verify(
    run: Run | str | Path,
    model: str | Loaded | None = None,
    checkpoint: Path | None = None,
    dataset: str | Images | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    attack: Sequence[str | Attack] = (),
    source: str | Loaded | None = None,
    sample: int = SAMPLE,
    seal: str | None = None,
    progress: Progress = silent,
) -> Verified:
    """Compute a run again, in part, and compare with its records. A step that finds faults is the last one.

    1. Every record must belong to an image of the data (same hash and label), an attack and a threat of the manifest,
       and agree with the other records, the times and the finished batches.
    2. Every clean prediction is computed again, and every stored example: it must lie inside ball and box around the
       very image and be misclassified as recorded.
    3. The trust battery is run again. Where the numerics are the run's its findings must be the same; elsewhere it must
       not say "pass" for "fail" or the other way round.
    4. At least `sample` random images are attacked again by each attack, see `reattack`. Attacks from outside satbench
       are run only where `attack` names or holds them, because a run folder must not decide what is imported; transfer
       attacks only with their `source`.

    `model`, `checkpoint` and `dataset` say where network and images are when they have moved. `seal` is the start, of
    16 characters or more, of a seal that was published with the run. Without it, a forger who computes the seal again
    can change what no computation gives: host, command, dates, seconds, notes, the network's label and group, a trust
    verdict or examples that are left out; and, where bits cannot be compared, versions and a share of records that
    rounding could explain in the sample (10% of 200 images passed with the default one, 20% did not). Raises `BadInput`
    when the run does not match its own seal, or network, images or source differ.
    """
    run = run if isinstance(run, Run) else read_run(Path(run))
    said, asked = run.manifest, spec_of(run.manifest)
    if sample < 1:
        raise BadInput(f"--sample {sample}; give the number of images to attack again, from 1")
    if seal is not None and len(seal) < 16:
        raise BadInput(f"--seal {seal} is too short; give at least 16 characters of the published seal")
    faults = [f"the seal is {said.seal}, expected {seal}"] if seal and not said.seal.startswith(seal.lower()) else []
    if model is None and said.model.in_memory:
        raise BadInput(f"{run.path} measured a {said.model.ref} given from Python; name it with --model or as model=")
    if model is None and is_own_network(said.model.ref):
        check_allowed(said.model.ref, run.path)
    if model is None and checkpoint is None and said.model.checkpoint is not None:
        checkpoint = Path(said.model.checkpoint)
    loaded = identified(model if isinstance(model, Loaded) else load(model or said.model.ref, checkpoint, device))
    if loaded.info.digest != said.model.digest:
        raise BadInput(
            f"{run.path} measured a network of digest {said.model.digest}, {loaded.info.reference!r} has "
            f"{loaded.info.digest}; name the one that was measured with --model and --checkpoint"
        )
    if loaded.info.code != said.model.code:
        raise BadInput(
            f"{run.path} measured other code than {loaded.info.reference!r} has now, with the same weights; name the "
            "network that was measured with --model"
        )
    other = load(source, device=device) if isinstance(source, str) else source
    other = None if other is None else identified(other)
    images = _images(run, asked, loaded, dataset, data_dir)
    place = resolve_device(device)
    loaded.model.to(place)
    given = [one for one in attack if not isinstance(one, str)]
    given += sweep.attacks([one for one in attack if isinstance(one, str)], None, None)
    random_network = _is_random(loaded.model, images, place)
    attacks, skipped = _attacks(said.attacks, given, other, random_network)
    stages = {name: stages_as_run(one, random_network or isinstance(one, Transfer)) for name, one in attacks.items()}
    faults += [fault for one in said.attacks for fault in _info_faults(one, attacks, stages)]
    faults += _contradictions(run, loaded, images, stages)
    if faults:
        return Verified(0, 0, 0, 0, 0, len(run.records), skipped, faults)
    clean, broken, again = 0, 0, Reattacked(0, 0, 0, [], [])
    claims = run.records["clean_prediction"] == run.records["label"]
    with using_threads(said.threads):
        same = _same_numerics(said, place) and not random_network
        if random_network:
            skipped.append("clean predictions and examples were not judged again: the network draws random numbers")
        else:
            clean, broken = len(images), int((claims & run.records["broken"]).sum()) if said.examples else 0
            with crafting(loaded.model):
                faults += stored_faults(run, loaded.model, images, place, progress)
        if not said.examples:
            skipped.append("the run kept no examples: broken images are attacked again like the others")
        if said.trust is not None and not faults:
            threats = sweep.threats_of(asked, said.model)
            checked = quick_trust(loaded.model, images, threats, asked.seed, run.records, said.attacks)
            faults += _trust_faults(said.trust, checked, same)
        if attacks and not faults:
            search = _search(asked, loaded, other, images, place)
            if same and search.info.identity != said.search.identity:
                faults.append(f"the attacks search on {search.info.note}, recorded {said.search.identity}")
            again = reattack(
                run, loaded.model, images, attacks, stages, place, search, same, random_network, sample, progress
            )
    return Verified(
        clean=clean,
        broken=broken,
        attacked=again.records,
        exact=again.exact,
        differing=again.differing,
        unproven=int(claims.sum()) - broken,
        skipped=skipped + again.skipped,
        faults=faults + again.faults,
    )


def _contradictions(run: Run, loaded: Loaded, images: Images, stages: Stages) -> list[str]:
    """What can be said against a run before anything is computed."""
    said = run.manifest
    faults = layout_faults(run, images)
    if loaded.info.reference == said.model.reference:
        faults += [
            f"the network's {name} is {getattr(loaded.info, name)}, recorded {getattr(said.model, name)}"
            + ("; if it was trained further since, measure it again" if name in OF_LENGTH else "")
            for name in FROM_FILE
            if not (name == "recipe" and said.model.label != loaded.info.label)  # a name of the user's replaces it
            if getattr(loaded.info, name) != getattr(said.model, name)
        ]
    if faults:
        return faults
    return record_faults(run.records) + timing_faults(run, stages) + parts_faults(run, stages) + trust_faults(said)


def _images(
    run: Run, asked: EvaluationSpec, loaded: Loaded, given: str | Images | None, data_dir: Path | None
) -> Images:
    if isinstance(given, Images):
        images = given
    else:
        name = given or run.manifest.data.name
        if given is None and is_own_data(name):
            check_allowed(name, run.path)
        images = load_images(name, asked.split, asked.image_size, data_dir, asked.loader)
    images = with_labels_of(loaded, images.head(asked.n))
    if images.digest != run.manifest.data.digest:
        raise BadInput(f"the images of {images.name} are not those of {run.path}: ids, labels or pixels differ")
    return images


def _attacks(
    said: Sequence[AttackInfo], given: Sequence[Attack], other: Loaded | None, random_network: bool
) -> tuple[dict[str, Attack], list[str]]:
    """The attacks that can be run again by their ids, and a sentence for each of the others."""
    attacks, skipped = {}, []
    for info in said:
        sources = [layer.params.get("source") for layer in info.layers if layer.name == TRANSFER]
        built = rebuild(info, given)
        if sources and (other is None or sources != [source_name(other.info)]):
            skipped.append(f"{info.id} was not run again: name its source with --from")
        elif built is None:
            skipped.append(f"{info.id} was not run again: it is not satbench's own; name it with --attack")
        else:
            attacks[info.id] = continued(built, random_network) if info.stages else built
    return attacks, skipped


def _info_faults(said: AttackInfo, attacks: Mapping[str, Attack], stages: Stages) -> list[str]:
    """What the run says of an attack that differs from what the attack of this id says of itself."""
    if said.id not in attacks:
        claimed = said.tier not in (TIERS[0], "another attack")
        return [f"{said.id} is recorded as {said.tier}, but is no attack of satbench's"] if claimed else []
    found = info_as_run(attacks[said.id], stages[said.id])
    faults = [
        f"{said.id}: its {key} is {getattr(found, key)}, recorded {getattr(said, key)}"
        for key in ("kind", "tier", "effort", "label", "settings")
        if getattr(found, key) != getattr(said, key)
    ]
    if [(one.id, one.kind) for one in found.stages] != [(one.id, one.kind) for one in said.stages]:
        faults.append(f"{said.id}: its stages are {ids(found.stages)}, recorded {ids(said.stages)}")
    return faults


def _search(asked: EvaluationSpec, loaded: Loaded, other: Loaded | None, images: Images, place: torch.device) -> Search:
    """Where the run's attacks searched."""
    _, probe, _ = next(iter(images.head(min(PROBE, len(images))).batches(PROBE)))
    model = (other or loaded).model.to(place)
    return search_on(model, probe.to(place), asked.search, another=other is not None)


def _is_random(model: nn.Module, images: Images, place: torch.device) -> bool:
    """Whether the network draws random numbers, as `evaluate` asks it."""
    _, x, y = next(iter(images.head(min(PROBE, len(images))).batches(PROBE)))
    x, y = x.to(place), y.to(place)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), crafting(model):
        torch.manual_seed(0)
        return is_random(model, x, logits_of(model, x, y))


def _same_numerics(said: Manifest, place: torch.device) -> bool:
    """Whether this process repeats the run of a network without random numbers bit by bit."""
    memory = any(note.startswith("memory ran out") for note in said.notes)
    here = (numerics_fingerprint(), versions(), revision(), str(place))
    there = (said.numerics, said.versions, said.revision, said.device)
    return here == there and place.type == "cpu" and not memory and not said.other_numerics


def _trust_faults(recorded: Trust, found: Trust, same: bool) -> list[str]:
    if same:
        pairs = zip(recorded.findings, found.findings, strict=False)
        differing = next((f"{one.check}: {other.sentence}" for one, other in pairs if one != other), "")
        return [] if recorded == found else [f"trust checked again says {found.verdict}; {differing}"]
    apart = {recorded.verdict, found.verdict} == {get_args(Verdict)[0], get_args(Verdict)[-1]}
    return [f"trust checked again says {found.verdict}, recorded {recorded.verdict}"] if apart else []
