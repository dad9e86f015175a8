"""The gate's verdict on GitHub: annotations of a workflow run, and the summary of its job."""

from collections.abc import Sequence

from satbench.core.bounded import MIB
from satbench.core.escaping import github_message, github_property, markdown, markdown_code
from satbench.regression.evidence import Checked
from satbench.regression.table import HOW, figure_table, headline, sentences
from satbench.regression.verdict import cases

MOST_ANNOTATIONS = 10  # errors of a step that GitHub shows
MOST_BYTES = MIB  # of the summary of a step; GitHub shows no larger one
REFUSED = "robustness not compared"


def annotations(checked: Sequence[Checked], refused: str = "") -> list[str]:
    """A workflow command for each figure, and each network, that changed; at most as many as GitHub shows."""
    found = [(REFUSED, refused)] if refused else []
    for one in checked:
        found += [
            (f"{case.measured}: {case.name}", case.sentence) for case in cases(one.verdict) if case.state == "changed"
        ]
    if len(found) > MOST_ANNOTATIONS:
        left = len(found) - MOST_ANNOTATIONS + 1
        more = ("more changes", f"{left} more figures or trust verdicts changed; see the log of this step")
        found = [*found[: MOST_ANNOTATIONS - 1], more]
    return [f"::error title={github_property(title)}::{github_message(message)}" for title, message in found]


def summary(checked: Sequence[Checked], refused: str = "", held: int = 0) -> str:
    """The verdicts in Markdown, cut where the summary, with `held` bytes that are there already, would be too large."""
    lines = [line for one in checked for line in _section(one)]
    if refused:
        lines += ["## Robustness: not compared", "", markdown(refused), ""]
    return _cut(lines, MOST_BYTES - held)


def _section(one: Checked) -> list[str]:
    said = sentences(one.verdict)
    return [
        f"## Robustness: {one.verdict.state}",
        "",
        markdown(headline(one.verdict)),
        "",
        *(f"- {markdown(line)}" for line in said),
        *([""] if said else []),
        *figure_table(one.verdict).splitlines(),
        "",
        markdown(HOW.format(level=one.verdict.level, miss=one.verdict.miss)),
        "",
        f"To repeat: {markdown_code(one.repeat)}",
        "",
        f"To approve these figures: {markdown_code(one.approve)}",
        "",
    ]


def _cut(lines: Sequence[str], most: int) -> str:
    """As many lines as fit into `most` bytes with a last one on how many are missing; "" where that does not fit."""
    text = "".join(f"{line}\n" for line in lines)
    if len(text.encode()) <= most:
        return text
    note = "\n{} lines are left out, because GitHub shows at most 1 MiB; `--json` prints all of them.\n"
    size, kept = len(note.format(len(lines)).encode()), 0
    if size > most:
        return ""
    for line in lines:
        size += len(line.encode()) + 1
        if size > most:
            break
        kept += 1
    return "".join(f"{line}\n" for line in lines[:kept]) + note.format(len(lines) - kept)
