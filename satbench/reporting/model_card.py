"""The model card of an exported network: what it is, what was measured of it, and where its weights come from."""

import re
from collections.abc import Mapping, Sequence

from satbench.core.escaping import markdown, one_line
from satbench.reporting.published import PublishedFigure
from satbench.reporting.summary import summarise
from satbench.reporting.table_forms import to_markdown
from satbench.reporting.tables import accuracy_table
from satbench.results.schema import ModelInfo
from satbench.results.store import Run

UNSTATED = "none stated"


def model_card(
    info: ModelInfo,
    facts: Mapping[str, object],
    licence: str | None,
    runs: Sequence[Run],
    published: Sequence[tuple[PublishedFigure, str]],
    files: Mapping[str, str],
    usage: str,
    images: str,
) -> str:
    """Markdown with the front matter that the Hugging Face Hub reads.

    facts: architecture, data set and the like by name. runs: evaluations of this network. published: figures of others
    with where they were published. files: SHA-256 by name. usage: how the network is loaded, Python code.
    images: their colours, such as "RGB".
    """
    front = ["---", f"license: {_identifier(licence)}", "library_name: satbench", "pipeline_tag: image-classification"]
    front += ["tags:", "- adversarial-robustness", "- image-classification", "---"]
    known = {
        **facts,
        "trained for": info.trained_for,
        "extra data": info.extra_data,
        "method": info.method,
        "recipe": info.recipe,
        "seed": info.seed,
        "licence": licence or UNSTATED,
    }
    lines = [*front, "", f"# {markdown(info.label)}", ""]
    lines += [f"- {name}: {_code(value)}" for name, value in known.items() if value is not None]
    lines += ["", f"Images are float {images} in [0, 1]; normalisation is inside the network.", ""]
    lines += ["```python", usage, "```", "", "## Measured", ""]
    if runs:
        lines += [to_markdown(accuracy_table(summarise(runs))), ""]
        lines += [f"- run of {run.manifest.created}, seal {_code(run.manifest.seal)}" for run in runs]
    else:
        lines.append("Nothing was measured for this card.")
    if published:
        lines += ["", "## Published by others, not measured here", ""]
        lines += [f"- {markdown(f'{claim.figure} {claim}')} ({markdown(where)})" for claim, where in published]
    lines += ["", "## Provenance", "", f"- network: {_code(info.digest)}, loaded as {_code(info.ref)}"]
    lines += [f"- {_code(name)}: SHA-256 {_code(digest)}" for name, digest in files.items()]
    return "\n".join(lines) + "\n"


def _identifier(licence: str | None) -> str:
    """The Hub's identifier of a licence; anything but one plain word is "other", and no licence is "unknown"."""
    if licence is None:
        return "unknown"
    return licence.lower() if re.fullmatch(r"[A-Za-z0-9.-]+", licence) else "other"


def _code(value: object) -> str:
    return f"`{one_line(str(value)).replace('`', chr(39))}`"
