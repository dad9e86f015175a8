"""Chromium without a network, and a folder of pages to open in it."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from reporting.made import AA, EPS, PGD, first, picture, runs_in, trust

from satbench.reporting import leaderboard
from satbench.reporting.details import ClassCount, Curve, Detail
from satbench.reporting.pictures import small
from satbench.reporting.published import PublishedLine
from satbench.reporting.summary import summarise

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
AXE = "axe-core@4.10.2"
N = 400
SILU, GELU = first(220, N), [40 <= i < 250 for i in range(N)]  # 40 of them only silu has right, 30 only gelu


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    found = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(CHROMIUM)} is on the PATH")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page in the browser, with all that it complained about and all that it asked for."""

    page: Any
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a file in a window; what the page complained about and what it asked for must both be nothing."""
    opened: list[Opened] = []

    def visit(path: Path, width: int = 1280, scheme: str = "light", address: str = "", script: bool = True) -> Opened:
        context = chromium.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=script
        )
        context.set_default_timeout(10_000)
        page = context.new_page()
        one = Opened(page)
        opened.append(one)
        page.on("console", lambda message: one.complaints.append(message.text))
        page.on("pageerror", lambda error: one.complaints.append(str(error)))
        page.on("request", lambda request: one.requests.append(request.url))
        page.goto(f"{path.as_uri()}{address}")
        if script and page.locator(".chart").count():
            page.locator(".chart svg").first.wait_for()
        return one

    yield visit
    for one in opened:
        one.page.context.close()
        assert one.complaints == []
        assert [url for url in one.requests if not url.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages of five models: two with outcomes image by image, one that fails, one under PGD alone; and a figure."""
    folder = tmp_path_factory.mktemp("site")
    make = runs_in(folder / "runs")
    clean = first(380, N)
    outcomes = {"silu": SILU, "gelu": GELU, "relu": first(100, N)}
    runs = [make(name, clean, {(a, "Linf", EPS): met for a in (PGD, AA)}) for name, met in outcomes.items()]
    runs.append(make("silu", clean, {(PGD, "Linf", EPS / 2): first(300, N)}))
    runs.append(make("elu", clean, {(PGD, "Linf", EPS): first(300, N)}, method="trades"))
    runs.append(make("softplus", clean, {(AA, "Linf", EPS): first(390, N)}, trust=trust("fail", "NaN")))
    details = [
        Detail(
            network=f"sha256:{name}-0",
            dataset="digits",
            split="test",
            images="sha256:data",
            outcomes={("Linf 8/255", attack): tuple(outcomes[name]) for attack in (PGD, AA)},
            classes=(ClassCount("zero", 40, 39, 30), ClassCount("one", 60, 50, 20)),
            classes_under="Linf 8/255",
            evidence=("gradients: gradients are there",),
            training=(Curve("val_clean", (0, 1, 2), (0.1, 0.5, 0.9)),),
            examples=(small(picture(8, 1)), small(picture(224))),
            provenance=(("host", "somewhere"),),
            commands=("satbench eval --model x",),
            downloads=(("records", "runs/records.parquet"), ("bad", "javascript:alert(1)")),
        )
        for name in ("silu", "gelu")
    ]
    published = [
        PublishedLine("digits", "test", "Linf", "8/255", "theirs", 96.0, 60.0, "PGD-20", "a paper", "not measured here")
    ]
    leaderboard.write(folder / "boards", leaderboard.build(summarise(runs), (), published, details))
    return folder / "boards"


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, from npm."""
    folder, npm = tmp_path_factory.mktemp("axe"), shutil.which("npm")
    if npm is None:
        pytest.skip("no axe-core: npm is not installed")
    done = subprocess.run([npm, "pack", AXE], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        pytest.skip(f"no axe-core: npm pack {AXE} failed")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        file = archive.extractfile("package/axe.min.js")
        assert file is not None
        return file.read().decode()
