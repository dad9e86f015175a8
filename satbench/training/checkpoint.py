"""What a training folder holds, beside its state (`state`) and its log of steps (`steps`).

config.json        the frozen config, written first
metrics.jsonl      an `Epoch` of `results.training_log` a line. Written after the state, so that a log that has come to
                   its end says that the run is finished
times.jsonl        a `Times` a line
best.safetensors, last.safetensors   the weights, each a file that rebuilds its network alone
epochs/0010.safetensors   those of epoch 10, counted from 1 as in tables, where every so many were asked for
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.extra import ExtraData
from satbench.core.files import atomic_file, to_json, write_text
from satbench.core.parsing import parsed
from satbench.core.plugins import check_allowed
from satbench.core.strict_json import read_json
from satbench.models.classifier import Classifier
from satbench.models.weights import (
    SCHEMA_VERSION,
    Conversion,
    Provenance,
    load_model_file,
    read_header,
    save_model,
)
from satbench.results.training_log import ANEW, METRICS, Epoch, Times, read_log
from satbench.training.config import TrainConfig, methods_in
from satbench.training.continuation import fixed, obstacle
from satbench.training.ending import is_over
from satbench.training.evaluators import is_accuracy
from satbench.training.log import Best, best_epoch, last_epoch
from satbench.training.state import CONFIG, STATE, Position, Saved, newest_state, read_history
from satbench.training.steps import STEPS, read_steps
from satbench.zoo import BEST, LAST

TIMES = "times.jsonl"
EPOCHS = "epochs"
TEMPORARY = (".*.json.*", ".*.jsonl.*", ".*.safetensors.*", f"{EPOCHS}/.*.safetensors.*")  # of `atomic_file`


def open_folder(out: Path, config: TrainConfig, data: dict[str, str], batches: int, best: Best) -> None:
    """Write the config to the folder `out`, or check that `out` already is the folder of this config and data.

    `data` holds the digest of each split, and of the weights that the run begins with; `batches` counts those of an
    epoch; `best` as in `log.best_epoch`. A folder whose run can go on under `config`, see `continuation`, becomes
    one of `config`: its config is replaced last, in one step. Raises `BadInput` when the folder belongs to other
    settings or images.
    """
    file = out / CONFIG
    for pattern in TEMPORARY:
        for left in out.glob(pattern):  # what a killed process was writing
            left.unlink()
    if file.is_file():
        there = read_config(out)
        if changed := _first_difference(fixed(there), fixed(config)):
            raise BadInput(f"{out} holds a run with another {changed}; give another --out or the same settings")
        if read_json(file).get("data") != data:
            raise BadInput(
                f"{out} holds a run on other images, or begins with other weights, than {config.dataset} and init_from "
                "have now; give another --out"
            )
        if there == config:
            return
        changed = _first_difference(there.model_dump(), config.model_dump())
        refusal = f"{out} holds a run with another {changed}"
        saved = newest_state(out, lambda saved: check_state(saved, there, data, batches, best))
        if saved is None:
            raise BadInput(f"{refusal}, and no state to continue from; give another --out or the same settings")
        if why := obstacle(there, config, saved.position, batches, best):
            raise BadInput(f"{refusal} and cannot continue: {why}")
        read_steps(out / STEPS)  # refused here where it is damaged
        if history := saved.position.history:
            check_weights(out, (there,), best_epoch(history, best), last_epoch(history), resuming=True)
        write_metrics(out, saved.position)
    write_text(file, to_json({"schema_version": SCHEMA_VERSION, "config": config.model_dump(), "data": data}))


def check_state(saved: Saved, config: TrainConfig, data: dict[str, str], batches: int, best: Best) -> None:
    """Raise `BadInput` for a state from which a run of `config` cannot go on, such as that of another run."""
    wrapped, there = json.loads(saved.config), config_of(saved)
    if there == config and wrapped["data"] == data:
        return
    if changed := _first_difference(fixed(there), fixed(config)):
        raise BadInput(f"{saved.file} is of another run, with another {changed}")
    if wrapped["data"] != data:
        raise BadInput(f"{saved.file} is of another run, on other images")
    if why := obstacle(there, config, saved.position, batches, best):
        raise BadInput(f"{saved.file} is of another run: {why}")


def config_of(saved: Saved) -> TrainConfig:
    """The config that a state was saved under."""
    return _config(json.loads(saved.config)["config"], saved.file)


def read_config(folder: Path) -> TrainConfig:
    """The config of a training folder; raises `BadInput` when it is damaged or of another schema version."""
    file = folder / CONFIG
    try:
        raw = read_json(file)
        version, config = raw["schema_version"], raw["config"]
    except BadInput:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{file} is missing or damaged ({type(error).__name__}); {ANEW}") from None
    if version != SCHEMA_VERSION:
        raise BadInput(f"{file} has schema version {version!r}, this satbench reads {SCHEMA_VERSION}; train it again")
    return _config(config, file)


def _config(raw: Any, file: Path) -> TrainConfig:
    """A config that a training has stored, whose methods are built while it is read, if it has a budget of passes."""
    for name in methods_in(raw) if isinstance(raw, dict) else ():
        check_allowed(name, file)
    return parsed(TrainConfig, raw, str(file))


def finished(out: Path, config: TrainConfig) -> bool:
    """Whether the run in `out` has nothing left to do: it is logged to its end, which is written last.

    Raises `BadInput` for a damaged log, unless there is a state, from which it is written again.
    """
    try:
        return is_over(config, read_metrics(out))
    except BadInput:
        if not (out / STATE).is_file():
            raise
        return False


def check_weights(out: Path, configs: Sequence[TrainConfig], best: int, last: int, resuming: bool = False) -> None:
    """Raise `BadInput` where the weights in the folder are not those of these epochs and of one of `configs`.

    A run that continues may have written those of the epoch that it is about to repeat.
    """
    for name, epoch in ((BEST, best), (LAST, last)):
        try:
            _, origin = load_model_file(out / name)
        except BadInput as error:
            raise BadInput(f"{error}; remove {out} to train it again") from None
        found = origin.epoch if isinstance(origin, Provenance) else -1
        if not _is_of(origin, configs):
            raise BadInput(f"{out / name} holds the weights of another training; remove {out} to train it again")
        if found != epoch and not (resuming and found > epoch):
            raise BadInput(f"{out / name} does not hold the weights of epoch {epoch}; remove {out} to train it again")


def _is_of(origin: Provenance | Conversion, configs: Sequence[TrainConfig]) -> bool:
    """Whether weights come from a training of one of these configs, at whatever epoch."""
    return isinstance(origin, Provenance) and any(
        (origin.config.partition(" ")[0], origin.seed)
        == (config.digest(origin.train_digest, origin.extra.digest if origin.extra else None), config.seed)
        for config in configs
    )


def epoch_file(out: Path, epoch: int) -> Path:
    """Where the weights of an epoch, counted from 0, are kept."""
    return out / EPOCHS / f"{epoch + 1:04d}.safetensors"


def provenance(
    config: TrainConfig,
    epoch: int,
    ended: bool,
    train_digest: str,
    class_names: tuple[str, ...] | None = None,
    extra: ExtraData | None = None,
    is_kept: bool = False,
) -> Provenance:
    """What a weights file says of the training that made it.

    ended: whether that is over. is_kept: whether the epoch was kept on request; it is then another network
    than the best and the last, and seeds are networks of the same epoch.
    """
    own = f" at epoch {epoch + 1}" if is_kept else ""
    digests = train_digest, extra.digest if extra else None
    return Provenance(
        label=config.label,
        recipe=config.recipe + own,
        method=config.method.name,
        dataset=config.dataset,
        seed=config.seed,
        threat=Threat(norm=config.threat.norm, eps=config.threat.eps),
        epoch=epoch,
        train_digest=train_digest,
        config=config.digest(*digests) + own,
        family=config.family(*digests) + own,
        unfinished=None if ended or is_kept else config.epochs,
        class_names=class_names,
        val=config.data.val,
        train_n=config.data.train_n,
        extra=extra,
    )


def save_weights(path: Path, model: Classifier, origin: Provenance) -> None:
    """Write a weights file atomically; equal runs give equal bytes."""
    with atomic_file(path) as temporary:
        save_model(temporary, model, origin)


def relabel_weights(
    out: Path,
    configs: Sequence[TrainConfig],
    ended: bool,
    train_digest: str,
    class_names: tuple[str, ...] | None = None,
    extra: ExtraData | None = None,
) -> None:
    """Give the weights in a folder the provenance of the last of `configs`, of a run that has `ended` or not.

    The others are those that the run had before it was made longer. Raises `BadInput` for weights of another training.
    """
    for path in (out / BEST, out / LAST, *sorted((out / EPOCHS).glob("[!.]*.safetensors"))):
        _, origin = read_header(path)
        if not isinstance(origin, Provenance) or not _is_of(origin, configs):
            raise BadInput(f"{path} holds the weights of another training; remove {out} to train it again")
        is_kept = path.parent.name == EPOCHS
        wanted = provenance(configs[-1], origin.epoch, ended, train_digest, class_names, extra, is_kept)
        if origin != wanted:
            save_weights(path, load_model_file(path)[0], wanted)


def write_metrics(out: Path, position: Position) -> None:
    """Write the whole log and the times again, so that they never hold an epoch twice."""
    logs: tuple[tuple[str, Sequence[Epoch | Times]], ...] = ((TIMES, position.times), (METRICS, position.history))
    for name, rows in logs:
        write_text(out / name, "".join(json.dumps(row.to_dict()) + "\n" for row in rows))


def read_metrics(folder: Path) -> list[Epoch]:
    """The log of a training folder; empty when there is none.

    Raises `BadInput` for a damaged row, an epoch that is missing or doubled, and an accuracy outside of [0, 1]. Which
    figures are accuracies their names say, see `evaluators.is_accuracy`; others can be any finite number.
    """
    rows = read_log(folder / METRICS, Epoch)
    for row in rows:
        for name, value in row.val.figures.items() if row.val is not None else ():
            if is_accuracy(name) and not 0 <= value <= 1:
                where = f"{folder / METRICS}, line {row.epoch + 1}, field 'val.figures.{name}'"
                raise BadInput(f"{where}: give a number from 0 to 1 (given {value}); {ANEW}")
    return rows


def read_logged(folder: Path) -> list[Epoch]:
    """What `read_metrics` gives; raises `BadInput` also where it is not what the state of the run says.

    The state holds the log, too, and is written before it. Its own digest is not compared, for that takes all its
    tensors. Where there is no state, nothing is compared.
    """
    rows = read_metrics(folder)  # first: while a run goes on, the state has what the log has and more
    state = folder / STATE
    if rows and state.is_file() and read_history(state)[: len(rows)] != rows:
        raise BadInput(f"{folder / METRICS} does not say what {STATE} says: one of them was changed; {ANEW}")
    return rows


def read_times(folder: Path) -> list[Times]:
    """The times of each epoch of a training folder."""
    return read_log(folder / TIMES, Times)


def _first_difference(there: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> str:
    for key, value in sorted(wanted.items(), key=lambda item: item[0] == "recipe"):
        other = there.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            if value != other and (inner := _first_difference(other, value, f"{prefix}{key}.")):
                return inner
        elif value != other:
            return f"{prefix}{key} ({other!r} there, {value!r} asked for)"
    return next((f"{prefix}{key} ({there[key]!r} there, none asked for)" for key in there if key not in wanted), "")
