"""How the runs of a page were measured: images, attacks, trust, stages, networks."""

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from satbench.reporting import table_forms, tables
from satbench.reporting.joined import network_of
from satbench.reporting.lines import network_names
from satbench.reporting.names import counted, short_names, threat_name
from satbench.reporting.stages import stage_table
from satbench.reporting.summary import NOT_CHECKED, Row, Trusted
from satbench.results.store import Run


def threats(lines: Sequence[tables.Line]) -> str:
    """The threats of these lines, in order."""
    ordered = sorted(lines, key=lambda line: (line.norm, line.eps_value, line.eps))
    return ", ".join(dict.fromkeys(line.threat for line in ordered))


def facts(lines: Sequence[tables.Line], runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Terms and their values: threats, images, seeds, versions, devices, revision."""
    manifests = [run.manifest for run in runs]
    images = {
        f"{item.data.name}/{item.data.split}: {item.data.n} images, digest {item.data.digest}" for item in manifests
    }
    versions = {f"{name} {version}" for item in manifests for name, version in item.versions.items()}
    return [
        ("Threats", [threats(lines)]),
        ("Images", sorted(images)),
        ("Training seeds", [_listed({item.model.seed for item in manifests})]),
        ("Evaluation seeds", [_listed({item.seed for item in manifests})]),
        ("Versions", [", ".join(sorted(versions))]),
        ("Device", sorted({item.device for item in manifests})),
        ("Searched on", sorted({item.search.note for item in manifests})),
        ("What the attacks said", sorted({note for item in manifests for note in item.notes}) or ["nothing"]),
        ("Revision", sorted({item.revision or "unknown" for item in manifests})),
    ]


def _listed(values: set[int] | set[int | None]) -> str:
    known = sorted(value for value in values if value is not None)
    return ", ".join(map(str, known)) or "unknown"


def attacks(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Name and identity of each attack."""
    shorts = short_names(attack for row in rows for attack in row.attacks)
    return [{"name": name, "identity": attack} for attack, name in sorted(shorts.items(), key=lambda item: item[1])]


def trust_words(runs: Sequence[Run]) -> str:
    """How many runs have each verdict of the trust battery."""
    counts = Counter(NOT_CHECKED if one.manifest.trust is None else one.manifest.trust.verdict for one in runs)
    verdicts = ", ".join(f"{verdict} {n}" for verdict, n in counts.most_common())
    return f"Trust battery, {counted(len(runs), 'run')}: {verdicts}."


def trust_table(runs: Sequence[Run]) -> pd.DataFrame:
    """A line per run: how many checks of the trust battery it passed, what they cost, and why it is no pass."""
    lines, names = [], network_names(map(network_of, runs))
    for run in runs:
        manifest = run.manifest
        threats, trust = ", ".join(threat_name(one.norm, one.eps) for one in manifest.threats), manifest.trust
        if trust is None:
            seen = (NOT_CHECKED, *[table_forms.MISSING] * 5)
        else:
            passed = sum(one.outcome == "pass" for one in trust.findings)
            passes = f"{trust.forward} + {trust.backward}"
            why = " ".join(Trusted.of(trust).reasons) or table_forms.MISSING
            seen = (trust.verdict, trust.depth, str(len(trust.findings)), str(passed), passes, why)
        attacks = ", ".join(sorted(short_names(manifest.attacks).values()))
        lines.append((names[network_of(run)], threats, attacks, *seen))
    columns = ["model", "threats", "attacks", "trust", "depth", "checks", "passed", "passes", "why"]
    return pd.DataFrame(sorted(lines), columns=columns)


def stages(runs: Sequence[Run]) -> pd.DataFrame:
    """The `stage_table` of every run, with the network in front."""
    names = network_names(map(network_of, runs))
    found = [(names[network_of(run)], stage_table(run)) for run in runs]
    labelled = [frame.assign(model=label)[["model", *frame.columns]] for label, frame in found if len(frame)]
    ordered = sorted(labelled, key=lambda frame: str(frame.to_numpy().tolist()))
    return pd.concat(ordered) if ordered else pd.DataFrame()


def networks(runs: Sequence[Run]) -> pd.DataFrame:
    """A line a network."""
    lines = sorted(
        (
            model.label,
            model.group or table_forms.MISSING,
            model.activation or table_forms.MISSING,
            model.method or table_forms.MISSING,
            _listed({model.seed}),
            threat_name(model.trained_for.norm, model.trained_for.eps) if model.trained_for else table_forms.MISSING,
            model.digest,
        )
        for model in {network_of(run) for run in runs}
    )
    return pd.DataFrame(lines, columns=["model", "group", "activation", "method", "seed", "trained for", "digest"])
