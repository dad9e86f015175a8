"""The figures of `satbench probe` by network and by model, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from satbench.reporting.lines import model_lines
from satbench.reporting.rounding import down, inward, outward, with_interval
from satbench.reporting.table_forms import MISSING
from satbench.results.metrics import mcnemar, paired_interval, wilson
from satbench.results.probed import (
    Estimate,
    Probed,
    difference_of_seeds,
    mean_interval,
    mean_of_seeds,
    mean_of_skewed,
    paired_ratio,
    ratio_of_seeds,
)
from satbench.results.schema import ModelInfo

Kind = Literal["ratio", "difference"]


@dataclass(frozen=True)
class Quantity:
    """A column of `Probed.images`: what tables call it, how models are compared in it, and what it is."""

    label: str
    kind: Kind
    meaning: str


QUANTITIES: dict[str, Quantity] = {
    "input_fisher": Quantity(
        "input Fisher",
        "ratio",
        "Trace of the Fisher information of the prediction about the image: how much the predicted distribution "
        "changes with the pixels.",
    ),
    "weight_fisher": Quantity(
        "weight Fisher",
        "ratio",
        "Trace of the Fisher information of the prediction about the weights, with labels drawn from the prediction. "
        "It is small where predictions are confident, so compare it at equal confidence and loss alone.",
    ),
    "jacobian": Quantity(
        "Jacobian |J|²",
        "ratio",
        "Squared Frobenius norm of the derivative of the penultimate representation by the pixels.",
    ),
    "relative_jacobian": Quantity(
        "Jacobian |J|² / |z|²",
        "ratio",
        "The same over the squared length of the representation, which does not change when it is scaled.",
    ),
    "confidence": Quantity("confidence", "difference", "Largest predicted probability."),
    "loss": Quantity("cross-entropy", "ratio", "Of the true label, in nats."),
    "residual": Quantity(
        "inversion residual",
        "ratio",
        "|z' - z|² / |z|² between the representations of an image and of its reconstruction, the first term of the "
        "inversion's objective.",
    ),
    "error": Quantity(
        "inversion error", "ratio", "Mean squared difference of the pixels of an image and its reconstruction."
    ),
}
ACCURACY = "clean accuracy, %"


def by_line(networks: Sequence[Probed]) -> dict[str, list[Probed]]:
    """The networks of each model by its name, in the order given; seeds of one model share a line."""
    lines = model_lines(one.model for one in networks)
    short = {line: f"{line.model} {line.activation}".strip() for line in set(lines.values())}
    unique = len(set(short.values())) == len(short)
    found: dict[str, list[Probed]] = {}
    for one in networks:
        line = lines[one.model]
        name = short[line] if unique else " ".join(filter(None, astuple(line)))
        found.setdefault(name, []).append(one)
    return found


def names_of(networks: Sequence[Probed]) -> list[str]:
    """What each network is called: as its model, with its seed, or else its digest, where the model has several."""
    groups = by_line(networks)
    called: dict[ModelInfo, str] = {}
    for name, group in groups.items():
        for one in group:
            part = one.model.short[:8] if one.model.seed is None else f"seed {one.model.seed}"
            called[one.model] = name if len(group) == 1 else f"{name}, {part}"
    return [called[one.model] for one in networks]


def of_images(network: Probed, quantity: str) -> Estimate:
    """The mean over the images on which the quantity was measured."""
    return mean_of_skewed(network.images[quantity].dropna().tolist())


def of_line(networks: Sequence[Probed], quantity: str) -> Estimate:
    """The mean over seeds with the interval of seeds; of a single network, over images."""
    if len(networks) == 1:
        return of_images(networks[0], quantity)
    return mean_of_seeds([of_images(one, quantity).value for one in networks])


def compared(networks: Sequence[Probed], reference: Sequence[Probed], quantity: str) -> Estimate | None:
    """A model against the reference in one quantity: over seeds, or of two single networks over their images.

    None where one side has seeds and the other has not, or nothing was measured.
    """
    kind = QUANTITIES[quantity].kind
    if len(networks) == len(reference) == 1:
        both = pd.concat([one.images[quantity] for one in (networks[0], reference[0])], axis=1).dropna()
        if len(both) < 2:
            return None
        one, other = both.to_numpy().T.tolist()
        return paired_ratio(one, other) if kind == "ratio" else mean_interval(np.subtract(one, other).tolist())
    one, other = ([of_images(net, quantity).value for net in side] for side in (networks, reference))
    if min(len(one), len(other)) < 2 or not np.isfinite([*one, *other]).all():
        return None
    return ratio_of_seeds(one, other) if kind == "ratio" else difference_of_seeds(one, other)


def figures(networks: Sequence[Probed], pixels: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Every figure of every model as numbers: quantity, model, how many networks and images, mean, comparison."""
    groups = by_line(networks)
    reference = next(iter(groups.values()))
    found = []
    for name, group in groups.items():
        rows = [(quantity, of_line(group, quantity), compared(group, reference, quantity)) for quantity in QUANTITIES]
        answers = {"accuracy": _right} | {f"accuracy on {target}": partial(_transferred, target) for target in pixels}
        for label, right in answers.items():
            here, there = ([right(one) for one in side] for side in (group, reference))
            rows.append((label, accuracy(here), difference(here, there)))
        for quantity, mean, against in rows:
            found.append(
                {
                    "quantity": quantity,
                    "model": name,
                    "networks": len(group),
                    "mean": _numbers(mean),
                    "against": _numbers(against) if against and group is not reference else None,
                }
            )
    return found


def side_by_side(networks: Sequence[Probed]) -> pd.DataFrame:
    """A row a quantity, a column a model, and a column that compares each model with the first one."""
    groups = by_line(networks)
    reference = next(iter(groups))
    rows = [_rates("quantity", ACCURACY, {name: [_right(one) for one in group] for name, group in groups.items()})]
    for quantity, said in QUANTITIES.items():
        cells = {"quantity": said.label, "n": str(networks[0].images[quantity].notna().sum())}
        for name, group in groups.items():
            cells[_counted(name, len(group))] = shown(of_line(group, quantity))
            if name != reference:
                found = compared(group, groups[reference], quantity)
                cells[_against(name, reference)] = MISSING if found is None else _change(found, said.kind)
        rows.append(cells)
    return pd.DataFrame(rows)


def network_table(networks: Sequence[Probed]) -> pd.DataFrame:
    """A row a network, with the interval of each of its means over images."""
    rows = []
    for name, one in zip(names_of(networks), networks, strict=True):
        cells = {"model": name, "n": str(len(one.images)), ACCURACY: _percent(accuracy([_right(one)]))}
        cells |= {said.label: shown(of_images(one, quantity)) for quantity, said in QUANTITIES.items()}
        error = float(np.sqrt(one.images["jacobian_error"].pow(2).sum())) / len(one.images)
        cells["standard error of |J|² by its random vectors"] = f"{error:.2g}"
        rows.append(cells)
    return pd.DataFrame(rows)


def layer_table(networks: Sequence[Probed]) -> pd.DataFrame:
    """The weight Fisher information of each layer, by model, as `of_line` takes its mean; "-" for other layers."""
    groups = by_line(networks)
    rows = []
    for layer in dict.fromkeys(layer for one in networks for layer in one.layers.columns):
        cells = {"layer": layer}
        for name, group in groups.items():
            means = [mean_of_skewed(one.layers[layer].tolist()) for one in group if layer in one.layers]
            found = means[0] if len(means) == 1 else mean_of_seeds([mean.value for mean in means]) if means else None
            cells[_counted(name, len(group))] = MISSING if found is None else shown(found)
        rows.append(cells)
    return pd.DataFrame(rows)


def transfer_table(networks: Sequence[Probed], pixels: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A row a target data set: accuracy of a linear readout of its pixels and of each model's representation."""
    groups = by_line(networks)
    rows = []
    for target, right in pixels.items():
        each = {name: [_transferred(target, one) for one in group] for name, group in groups.items()}
        rows.append({"pixels, %": _percent(accuracy([right]))} | _rates("target", target, each))
    columns = ["target", "n"]
    return pd.DataFrame(rows, columns=[*columns, *(name for name in (rows[0] if rows else ()) if name not in columns)])


def accuracy(right: Sequence[np.ndarray]) -> Estimate:
    """The mean accuracy of networks on the same images, each bool (N,), with its Wilson interval."""
    count, n = float(np.mean([one.sum() for one in right])), len(right[0])
    return Estimate(count / n, *wilson(count, n), n)


def difference(right: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Estimate | None:
    """Accuracy minus that of the reference, as `compared`: over seeds, or of two networks over paired images."""
    if len(right) == len(reference) == 1:
        paired = mcnemar(right[0].tolist(), reference[0].tolist())
        return Estimate(paired.difference, *paired_interval(paired), paired.n)
    if min(len(right), len(reference)) < 2:
        return None
    one, other = ([float(net.mean()) for net in side] for side in (right, reference))
    return difference_of_seeds(one, other)


def _right(network: Probed) -> np.ndarray:
    right: np.ndarray = (network.images["prediction"] == network.images["label"]).to_numpy()
    return right


def _transferred(target: str, network: Probed) -> np.ndarray:
    right: np.ndarray = network.transfer.loc[network.transfer["target"] == target, "correct"].to_numpy(dtype=bool)
    return right


def _rates(heading: str, label: str, right: Mapping[str, Sequence[np.ndarray]]) -> dict[str, str]:
    """A row of accuracies, and of their differences from the first model, in percent."""
    reference = next(iter(right))
    cells = {heading: label, "n": str(len(right[reference][0]))}
    for name, group in right.items():
        cells[_counted(name, len(group))] = _percent(accuracy(group))
        if name != reference:
            found = difference(group, right[reference])
            points = None if found is None else f"{inward(found.value)} {outward(found.low, found.high)} points"
            cells[_against(name, reference)] = points or MISSING
    return cells


def _counted(name: str, networks: int) -> str:
    return name if networks == 1 else f"{name}, {networks} networks"


def _against(name: str, reference: str) -> str:
    return f"{name} against {reference}"


def _percent(rate: Estimate) -> str:
    return f"{down(rate.value)} {outward(rate.low, rate.high)}"


def shown(found: Estimate) -> str:
    """A mean with its interval, or "-" where there is none."""
    return MISSING if not np.isfinite(found.value) else with_interval(found.value, found.low, found.high)


def _change(found: Estimate, kind: Kind) -> str:
    return f"{'×' if kind == 'ratio' else '+' if found.value >= 0 else ''}{shown(found)}"


def _numbers(found: Estimate) -> dict[str, float | None]:
    """An estimate as JSON holds it: None where a bound is infinite or nothing was measured."""
    return {name: value if np.isfinite(value) else None for name, value in asdict(found).items()}
