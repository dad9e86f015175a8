"""A suite from its study file to the verdict, in one call."""

import tempfile
from pathlib import Path

from satbench.numerics.device import using_threads
from satbench.regression import Baseline, SuiteVerdict, baseline_file, read_baseline
from satbench.results.sequential import LEVEL, MISS
from satbench.study.gate import Suite, check_members, opened, settle


def baseline_of(suite: Suite) -> Baseline | None:
    """The baseline beside the study file; None where there is none and rates are published.

    Raises `BadInput` as `read_baseline` does, and where it holds other networks than the suite.
    """
    file = baseline_file(suite.file)
    is_published = any(one.measurement.published for one in suite.members)
    baseline = read_baseline(file) if file.is_file() or not is_published else None
    check_members(suite, baseline)
    return baseline


def check_suite(suite: Suite, baseline: Baseline | None) -> SuiteVerdict:
    """Measure a suite anew on this machine's CPU and compare it with its baseline; nothing is kept.

    Raises `BadInput` as `opened` does.
    """
    with (
        using_threads(suite.jobs.resources.cpus),
        tempfile.TemporaryDirectory(prefix="satbench-check-") as scratch,
    ):
        networks = settle(opened(suite, baseline, Path(scratch), "local:1", "cpu", None), lambda verdicts: None)
    return SuiteVerdict(str(suite.file), "" if baseline is None else baseline.reason, LEVEL, MISS, networks)
