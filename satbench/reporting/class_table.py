"""Robust accuracy of single classes."""

from collections.abc import Sequence

import pandas as pd

from satbench.reporting.differences import span
from satbench.reporting.joined import Measured
from satbench.reporting.lines import ModelLine, model_lines
from satbench.reporting.names import ClassNames
from satbench.reporting.rounding import down, outward
from satbench.results.metrics import wilson

MOST = 20  # classes, beyond which the table would be too wide to read
CLASS_NOTE = (
    "By class: means over seeds in percent with 95% Wilson intervals over the n images of the class, which say nothing "
    "about the choice of seeds. No class is tested."
)


def class_table(
    networks: Sequence[Measured], images: str, threat: tuple[str, float], attacks: Sequence[str]
) -> pd.DataFrame:
    """A line a model and a column a class: robust accuracy on these images, under all of these attacks, by their ids.

    A model is a line of the accuracy table that met these attacks; its seeds count on the images that all of them met.
    Accuracies are as readers see them. Empty with more than 20 classes.
    """
    lines = model_lines(measured.model for measured in networks)
    outcomes: dict[ModelLine, list[pd.Series[bool]]] = {}
    labels: dict[str, int] = {}
    for measured in networks:
        records = measured.records[measured.records["attack"].isin(attacks)]
        if measured.images == images and set(attacks) <= set(records["attack"]):
            table = measured.robust(*threat, attacks)
            if len(table):
                outcomes.setdefault(lines[measured.model], []).append(table)
                labels |= dict(zip(records["sample_id"], records["label"], strict=True))
    if len(set(labels.values())) > MOST:
        return pd.DataFrame()
    cells, counts = [], []
    for line, seeds in sorted(outcomes.items()):
        met = pd.concat(seeds, axis=1, join="inner").mean(axis=1)
        by_class = dict(list(met.groupby(met.index.map(labels))))
        counts.append({label: len(of_class) for label, of_class in by_class.items()})
        rates = {
            label: f"{down(of_class.mean())} {outward(*wilson(of_class.sum(), len(of_class)))}"
            for label, of_class in by_class.items()
        }
        cells.append({"model": line.model, "activation": line.activation, "seeds": str(len(seeds)), **rates})
    met_by = {label: [one.get(label, 0) for one in counts] for label in set(labels.values())}
    names = ClassNames(labels, labels.values())
    headings = {label: f"{names[label]}, n = {span(images)}" for label, images in met_by.items()}
    frame = pd.DataFrame(cells).fillna("-")
    return frame[["model", "activation", "seeds", *sorted(headings)]].rename(columns=headings)
