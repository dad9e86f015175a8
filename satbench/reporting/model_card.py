"""The model card of a network: what it is, what was measured of it, and where its weights come from."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from satbench.core.escaping import markdown, one_line
from satbench.core.names import NAME
from satbench.core.tables import DATA_SETS
from satbench.reporting.claims_file import PublishedFigure
from satbench.reporting.joined import images_name
from satbench.reporting.repeat import eval_command, train_command
from satbench.reporting.summary import summarise
from satbench.reporting.table_forms import to_markdown
from satbench.reporting.tables import Line, accuracy_table
from satbench.results.schema import ModelInfo
from satbench.results.store import Run

LIBRARY = "satbench"
UNSTATED = "none stated"
READ_FROM = "Add `--data-dir DIR`, the folder below which the data set lies, or name it in `SATBENCH_DATA`."
HUB_DATASETS = {  # what the Hugging Face Hub calls them
    "mnist": "ylecun/mnist",
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "svhn": "ufldl-stanford/svhn",
    "imagenet": "ILSVRC/imagenet-1k",
}
Published = Sequence[tuple[PublishedFigure, str]]  # with where each was published


def model_card(
    title: str,
    info: ModelInfo,
    facts: Mapping[str, object],
    licence: str | None,
    runs: Sequence[Run],
    published: Published = (),
    files: Mapping[str, str] | None = None,
    usage: str = "",
    images: str = "",
) -> str:
    """Markdown with the front matter that the Hugging Face Hub reads: the README of a model repository.

    title: its heading, and its name on the Hub. facts: architecture, data set and the like by name. runs: evaluations
    of this network. published: figures of others. files: SHA-256 by name. usage: how the network is loaded, Python
    code. images: their colours, such as "RGB".
    """
    lines = accuracy_table(summarise(runs))
    front = yaml.safe_dump(_front(title, info, facts, licence, lines), sort_keys=False, allow_unicode=True, width=120)
    known = {
        **facts,
        "trained for": info.trained_for,
        "extra data": info.extra_data,
        "method": info.method,
        "recipe": info.recipe,
        "seed": info.seed,
        "licence": licence or UNSTATED,
    }
    text = ["---", front.rstrip(), "---", "", f"# {markdown(title)}", ""]
    text += [f"- {name}: {_code(value)}" for name, value in known.items() if value is not None]
    pixels = " ".join(filter(None, ("float", images)))
    text += ["", f"Images are {pixels} in [0, 1]; normalisation is inside the network.", ""]
    text += ["```python", usage, "```", ""] if usage else []
    text += ["## Measured", "", *_measured(runs, lines)]
    if published:
        text += ["", "## Published by others, not measured here", ""]
        text += [f"- {markdown(f'{claim.figure} {claim}')} ({markdown(where)})" for claim, where in published]
    commands = dict.fromkeys([train_command(info), *(eval_command(run.manifest) for run in runs)])
    if any(commands):
        text += ["", "## Make the numbers again", ""]
        text += [READ_FROM, ""] if any(_is_on_disk(run) for run in runs) else []
        text += ["```bash", *map(one_line, filter(None, commands)), "```"]
    text += ["", "## Provenance", "", f"- network: {_code(info.digest)}, loaded as {_code(info.reference)}"]
    text += [f"- training config: {_code(info.config)}"] if info.config else []
    text += [f"- {_code(name)}: SHA-256 {_code(digest)}" for name, digest in (files or {}).items()]
    return "\n".join(text) + "\n"


def _measured(runs: Sequence[Run], lines: Sequence[Line]) -> list[str]:
    """The table, the trust verdict of each run with the sentences behind one that is no pass, and the runs' seals."""
    if not runs:
        return ["Nothing was measured for this card."]
    text = [to_markdown(lines), ""]
    for run in runs:
        revision = f", revision {_code(run.manifest.revision)}" if run.manifest.revision else ""
        text.append(f"- run of {run.manifest.created}, seal {_code(run.manifest.seal)}{revision}")
    return text


def _is_on_disk(run: Run) -> bool:
    """Whether its images are read from a folder or file that the user has."""
    known = DATA_SETS.get(run.manifest.data.name.partition(":")[0])
    return known is not None and bool(known.path)


def _front(
    title: str, info: ModelInfo, facts: Mapping[str, object], licence: str | None, lines: Sequence[Line]
) -> dict[str, Any]:
    """The front matter's fields; `model-index` has the measured figures."""
    names = dict.fromkeys([str(facts.get("data set") or ""), *(line.dataset for line in lines)])
    datasets = [HUB_DATASETS.get(name, name) for name in names if NAME.fullmatch(name)]
    trained = [f"{info.trained_for.norm}-robust"] if info.trained_for else []
    front: dict[str, Any] = {
        "license": _identifier(licence),
        "library_name": LIBRARY,
        "pipeline_tag": "image-classification",
        "tags": ["adversarial-robustness", "image-classification", *trained],
    }
    front |= {"datasets": datasets} if datasets else {}
    if lines:
        front["metrics"] = ["accuracy"]
        front["model-index"] = [{"name": one_line(title), "results": _results(lines)}]
    return front


def _results(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """An entry for each set of images: clean accuracy of the line with the most of them, and each robust accuracy."""
    results = []
    places = dict.fromkeys((line.dataset, line.split, line.loader) for line in lines)
    for dataset, split, loader in places:
        here = [line for line in lines if (line.dataset, line.split, line.loader) == (dataset, split, loader)]
        widest = max(here, key=lambda line: line.n)
        metrics = [_metric("clean accuracy", widest.clean, widest.clean_lo, widest.clean_hi, widest.n)]
        for line in here:
            name = f"robust accuracy at {line.threat} under {line.attack}"
            metrics.append(_metric(name, line.robust, line.robust_lo, line.robust_hi, line.n))
        kind = HUB_DATASETS.get(dataset, dataset if NAME.fullmatch(dataset) else dataset.partition(":")[0])
        name = one_line(images_name(dataset, split, loader or None))
        results.append(
            {
                "task": {"type": "image-classification"},
                "dataset": {"name": name, "type": kind, "split": split},
                "metrics": metrics,
            }
        )
    return results


def _metric(name: str, value: float, low: float, high: float, n: int) -> dict[str, Any]:
    """An accuracy as a fraction, with its 95% Wilson interval."""
    return {"type": "accuracy", "name": one_line(name), "value": value, "args": {"n": n, "interval": [low, high]}}


def _identifier(licence: str | None) -> str:
    """The Hub's identifier of a licence; anything but one plain word is "other", and no licence is "unknown"."""
    if licence is None:
        return "unknown"
    return licence.lower() if re.fullmatch(r"[A-Za-z0-9.-]+", licence) else "other"


def _code(value: object) -> str:
    return f"`{one_line(str(value)).replace('`', chr(39))}`"
