"""The front door: from a model and its images to a run folder of records."""

import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from satbench.attacks import Attack
from satbench.core.errors import BadInput
from satbench.core.home import alone_in, among_workers
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.evaluation import resume
from satbench.evaluation.assemble import Measured
from satbench.evaluation.batch import usual_threads
from satbench.evaluation.classes import chance_note
from satbench.evaluation.continued import after_trust
from satbench.evaluation.joining import begin
from satbench.evaluation.request import Network, Numbers, Request, make_request, resolved
from satbench.evaluation.setting import Setting, data_info, images_for, prepare
from satbench.models.buffers import buffers_kept
from satbench.models.precision import Float32Ends
from satbench.numerics.device import resolve_device, using_threads
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import clean_table
from satbench.results.schema import Trust
from satbench.results.store import Run, check_run_folder, write_run
from satbench.specs.evaluation import EvaluationSpec
from satbench.zoo import Loaded


def evaluate(
    model: Network | EvaluationSpec,
    out: str | Path,
    attack: str | Attack | Sequence[str | Attack] | None = None,
    norm: str | None = None,
    eps: Numbers | None = None,
    steps: Numbers | None = None,
    restarts: Numbers | None = None,
    *,
    threat: str | ThreatModel | Sequence[str | ThreatModel] = (),
    data_dir: Path | None = None,
    device: str = "auto",
    command: str = "",
    progress: Progress = silent,
    **fields: Any,
) -> Run:
    """Attack a model and store one record per sample, attack and threat in the run folder `out`.

    `model` is a whole `EvaluationSpec`, or a module, or a name as `satbench.zoo.load` takes it. The further keyword
    arguments are the fields of the spec, such as `n=1000` or `search="plain"`; `dataset` may be `Images` and `source` a
    module. `attack` is one or several, objects or names, by default PGD. `norm`, `eps`, `steps`, `restarts` are comma
    lists as on the command line, or numbers. `threat`, instead of `norm` and `eps`, is one threat or several, as
    "Linf:8/255" or a `ThreatModel`. Without `threat` and `eps` the radius is the one the model was trained for in
    `norm`, by default Linf. `data_dir` is where relative data paths lie.

    The searches "bf16" and "surrogate" are part of the attack's identity, and so is `source`. The judge is always the
    model itself, on float32 images; weights of another dtype get them cast, which a note says. Buffers that passes move
    are put back before every batch and at the end. A model that draws random numbers is judged by the majority of
    `draws` passes and attacked without early stop; a tie counts as misclassified. With `trust` the quick form of the
    trust battery checks the model, for at most a tenth of the run's passes; where it doubts the number, `rapid`
    continues with the attacks of AutoAttack, and the battery runs again on what then stands.

    A killed call that is repeated continues where it stopped. A finished one is only read, which `Run.reused` says; one
    with more images, attacks or threats in the same folder computes what is new, and one whose model, attack or
    satbench has changed in its code computes everything. The records of two equal calls on one machine with equal
    `threads` are equal bytes. Raises `BadInput` before anything is written, also when `out` holds a run of another
    model, data set, seed or search, or one that this call would shrink: more images, attacks or threats, or examples or
    a trust verdict where it asks for none.
    """
    asked = make_request(model, attack, norm, eps, steps, restarts, threat, fields)
    return run_request(asked, Path(out), data_dir, device, command, progress)


def run_request(
    asked: Request,
    out: Path,
    data_dir: Path | None = None,
    device: str = "auto",
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """What `evaluate` does once it is known what was asked for."""
    run = _work(asked, out, data_dir, device, command, progress, patient=True)
    assert run is not None, "a patient worker stays until the run is finished"
    return run


def work_on(
    spec: EvaluationSpec,
    out: Path,
    data_dir: Path | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> bool:
    """Compute what no other process computes of an evaluation in the folder `out`; whether the run is then finished.

    It returns when all that is left is in other workers' hands, or waits for that. Raises `BadInput` as `evaluate`
    does.
    """
    return _work(resolved(spec), out, data_dir, device, "", progress, patient=False) is not None


def _work(
    asked: Request, out: Path, data_dir: Path | None, device: str, command: str, progress: Progress, patient: bool
) -> Run | None:
    started, spec = time.monotonic(), asked.spec
    check_run_folder(out)
    place = resolve_device(device)
    networks = asked.networks(device)
    dataset = spec.dataset if asked.images is None else asked.images
    images = images_for(networks[0], dataset, spec.split, spec.image_size, data_dir, spec.loader).head(spec.n)
    threads = spec.threads or max(usual_threads(one.model, images.shape, place) for one in networks)
    with using_threads(threads), buffers_kept(*(one.model for one in networks)) as buffers:
        setting = prepare(asked, networks, images, threads, out, place, command)
        finished = setting.finished()
        if finished is not None:
            return finished
        setting.check_threats()
        with among_workers(out, "eval", resume.task(setting.described, spec.trust)):
            with alone_in(out, "eval", patient=True):
                finished = setting.finished()  # by another command since
                if finished is not None:
                    return finished
                begin(out, setting.here, setting.described.fingerprint)
            try:
                found = _measured_and_checked(setting, progress, patient)
            except BadInput:
                setting.withdraw()
                raise
            if found is None:
                return None
            measured, checked, remarks = found
            notes = [
                *_notes(networks[0], images, measured.records, setting.answered.outputs, buffers.moved()),
                *remarks,
            ]
            return _assembled(setting, measured, checked, notes, started)


def _measured_and_checked(
    setting: Setting, progress: Progress, patient: bool
) -> tuple[Measured, Trust | None, list[str]] | None:
    """What the attacks did, the verdict of the trust battery, and what is to be said of both.

    None while others compute parts of it. Where the battery doubts the number, `rapid` continues and it runs again.
    """
    measured = setting.measured(setting.attacks, progress, patient)
    if measured is None:
        return None
    checked = setting.checked(measured, patient) if setting.spec.trust else None
    if setting.spec.trust and checked is None:
        return None
    own = setting.attacks if len(setting.networks) == 1 else []
    further, continued = after_trust(own, checked, setting.answered.random)
    if further:
        measured = setting.measured(further, progress, patient)
        checked = None if measured is None else setting.checked(measured, patient)
        if measured is None or checked is None:
            return None
    return measured, checked, [*measured.notes, *continued]


def _assembled(setting: Setting, measured: Measured, checked: Trust | None, notes: list[str], started: float) -> Run:
    """Write the run, unless another worker has."""
    with alone_in(setting.out, "eval", patient=True):
        finished = setting.finished()
        if finished is not None:
            return finished
        manifest = setting.described.model_copy(
            update={
                "data": data_info(setting.images, setting.images.digest),
                "attacks": measured.attacks,
                "trust": checked,
                "notes": notes,
                "other_numerics": [one for one in measured.numerics if one != setting.here.numerics],
                "seconds": round(time.monotonic() - started, 3),
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }
        )
        kept = measured.examples if setting.spec.save_examples else None
        return write_run(setting.out, manifest, measured.records, measured.timing, kept)


def _notes(loaded: Loaded, images: Images, records: pd.DataFrame, outputs: int, moved: list[str]) -> list[str]:
    """What a reader must know of the network, of its classes, and of how it was run."""
    correct = int(clean_table(records).sum())
    given = chance_note(correct, len(images), outputs), images.note, loaded.note
    notes = [note for note in given if note is not None]
    notes += [loaded.model.note] if isinstance(loaded.model, Float32Ends) else []
    if moved:
        notes.append(f"passes in eval mode change buffers of the network ({', '.join(moved)}); they were put back")
    return notes
