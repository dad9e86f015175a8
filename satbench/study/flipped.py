"""What a page shows of a network that the gate has measured, with pictures of images that flipped."""

from collections.abc import Iterator

import pandas as pd

from satbench.evaluation.pictures import pixels
from satbench.evaluation.stored import example
from satbench.regression import FigureVerdict, NetworkVerdict
from satbench.regression.evidence import Evidence, Flipped
from satbench.regression.figures import Place, places
from satbench.reporting.names import ClassNames
from satbench.results.store import Run, read_examples, read_run
from satbench.study.gate import Subject

EACH = 6  # images of a figure that are drawn


def evidence(subject: Subject, verdict: NetworkVerdict) -> Evidence:
    """Where the figures of a network come from, and the first of the images that flipped.

    Raises `BadInput` where the run kept no examples or its files are damaged.
    """
    run = read_run(subject.folder)
    found = {one.figure: one for one in places(subject.member.attacks, run.manifest.threats)}
    flipped = {one.figure: tuple(_flipped(subject, run, one, found.get(one.figure))) for one in verdict.figures}
    return Evidence(subject.expected, run.manifest, found, flipped)


def _flipped(subject: Subject, run: Run, figure: FigureVerdict, place: Place | None) -> Iterator[Flipped]:
    """The first images that flipped, those that were lost before those that were gained; clean without a `place`.

    An image is left out where the last look gave it another outcome than the first: see `Subject.look`.
    """
    images, records = subject.images, _records(run, place)
    names = ClassNames(images.ids, images.y.tolist())
    rows = {sample: row for row, sample in enumerate(images.ids)}
    for sample in (*figure.lost, *figure.gained)[:EACH]:
        here = records[records["sample_id"] == sample]
        is_wrong = here["broken"] if place else here["clean_prediction"] != here["label"]
        record = (here[is_wrong] if is_wrong.any() else here).iloc[0]
        if bool(is_wrong.any()) != (sample in figure.lost):
            continue
        _, x, _ = next(iter(images.take([rows[sample]]).batches(1)))
        is_attacked = place is not None and record["example_row"] >= 0
        predicted = record["prediction" if is_attacked else "clean_prediction"]
        yield Flipped(
            sample=sample,
            label=names[record["label"]],
            was_right=sample in figure.lost,
            now=names[predicted],
            image=pixels(x[0]),
            attacked=pixels(example(run.path, record["example_file"], record["example_row"])) if is_attacked else None,
        )


def _records(run: Run, place: Place | None) -> pd.DataFrame:
    """The records of a figure with the places of their examples, "" and -1 where there is none."""
    records = run.records.merge(read_examples(run), how="left", on=["attack", "norm", "eps", "sample_id"])
    records = records.fillna({"example_file": "", "example_row": -1}).astype({"example_row": int})
    if place is None:
        return records.drop_duplicates("sample_id")
    at = (records["norm"] == place.threat.norm) & (records["eps"] == place.threat.eps)
    return (
        records[at]
        if place.position < 0
        else records[at & (records["attack"] == run.manifest.attacks[place.position].id)]
    )
