"""pytest's option `--satbench STUDY.yaml`: every figure of a suite, and the trust in every network, is a test.

pytest loads this module at every start, so it imports the rest of satbench only where the option is given.
"""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from satbench.regression import Baseline, SuiteVerdict
    from satbench.study.gate import Suite

IN_ONE_PROCESS = ("no", "loadfile", "loadscope")  # values of xdist's --dist that keep the items of a file together
SUITES = pytest.StashKey["dict[Path, tuple[Suite, Baseline | None]]"]()


class NotAsApproved(Exception):
    """A figure or a trust verdict is not what was approved; the text is the gate's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("satbench").addoption(
        "--satbench",
        action="append",
        default=[],
        metavar="STUDY.yaml",
        help="Measure this suite and compare it with its baseline, a test for each figure. May be repeated.",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "satbench: a figure of a robustness suite that --satbench names")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Read the suites and have pytest collect their files; raises `pytest.UsageError` for a bad one."""
    config = session.config
    given = config.getoption("satbench")
    if not given:
        return
    if config.getoption("dist", "no") not in IN_ONE_PROCESS:
        raise pytest.UsageError("--satbench measures a suite in one process; with xdist, give --dist loadfile")
    from satbench.core.errors import BadInput
    from satbench.study.checked import baseline_of
    from satbench.study.gate import read_suite

    found = config.stash.setdefault(SUITES, {})
    for name in given:
        try:
            suite = read_suite(Path(name))
            found[(config.invocation_params.dir / name).resolve()] = suite, baseline_of(suite)
        except BadInput as error:
            raise pytest.UsageError(f"--satbench: {error}") from None
    config.args += [str(file) for file in found if str(file) not in config.args]


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> "SuiteFile | None":
    """The items of a suite; None for a file that the option does not name."""
    held = parent.config.stash.get(SUITES, {}).get(file_path.resolve())
    if held is None:
        return None
    suite, baseline = held
    return SuiteFile.from_parent(parent, path=file_path, suite=suite, baseline=baseline)


class SuiteFile(pytest.File):
    """A study file: it is measured once, when its first item runs."""

    def __init__(self, suite: "Suite", baseline: "Baseline | None", **rest: Any) -> None:
        super().__init__(**rest)
        self.suite = suite
        self.baseline = baseline

    def collect(self) -> Iterator["FigureItem"]:
        from satbench.regression.verdict import TRUST

        for member in self.suite.members:
            approved = None if self.baseline is None else self.baseline.measured[member.measured]
            figures = [*(member.measurement.published if approved is None else approved.figures)]
            figures += [TRUST] if approved is not None and approved.trust is not None else []
            for figure in figures:
                name = f"{member.measured}: {figure}"
                yield FigureItem.from_parent(self, name=name, network=member.measured, figure=figure)

    @cached_property
    def measured(self) -> "SuiteVerdict | Exception":
        """The verdict on the suite, or why there is none."""
        from satbench.core.errors import BadInput
        from satbench.study.checked import check_suite

        try:
            return check_suite(self.suite, self.baseline)
        except BadInput as error:
            return NotAsApproved(str(error))


class FigureItem(pytest.Item):
    """One figure of a network, or the trust in it."""

    parent: SuiteFile

    def __init__(self, network: str, figure: str, **rest: Any) -> None:
        super().__init__(**rest)
        self.network = network
        self.figure = figure
        self.add_marker("satbench")

    def runtest(self) -> None:
        verdict = self.parent.measured
        if isinstance(verdict, Exception):
            raise verdict
        from satbench.regression.verdict import cases

        (found,) = (one for one in cases(verdict) if (one.measured, one.name) == (self.network, self.figure))
        if found.state == "changed":
            raise NotAsApproved(f"changed: {found.sentence}")
        if found.state == "open":
            pytest.skip(f"another figure changed before this one was settled: {found.sentence}")
        self.user_properties.append(("satbench", found.sentence))

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], *rest: Any) -> Any:
        """The gate's message alone; what is no verdict keeps its traceback."""
        return str(excinfo.value) if isinstance(excinfo.value, NotAsApproved) else super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"{self.path.name}: {self.name}"
