"""The page of a leaderboard of 1,000 models in headless Chromium: its size, first paint, and a sort.

    python benchmarks/pages.py [--models 1000] [--repeats 5]

Times are medians in milliseconds. First contentful paint is counted from the start of the navigation; ready means that
chart and table can be used; a sort is from the click on a heading to the frame after the one that has the new order.
"""

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from satbench.core.eps import Threat
from satbench.reporting import leaderboard
from satbench.reporting.summary import Row
from satbench.specs.attack import AttackInfo

ACTIVATIONS = ("relu", "silu", "gelu", "elu", "softplus", "smoothrelu")
METHODS = ("pgd_at", "trades", "mart", "awp", "free", "fgsm_rs", "te", "moat", "sglr")
AUTOATTACK = AttackInfo(
    id="AutoAttack()", name="autoattack", params={}, kind="ensemble", tier="AutoAttack", effort=0, label="AutoAttack"
)
PAINT = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
SORT = """async () => {
    const heads = [...document.querySelectorAll(".list:not([hidden]) thead th")];
    const head = heads.find((one) => one.dataset.name === "robust %");
    const start = performance.now();
    head.click();
    const sorted = performance.now();
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    return [sorted - start, performance.now() - start];
}"""


def rows(models: int) -> list[Row]:
    """A row for each model at one threat, of 10,000 images."""
    draw = random.Random(0)
    return [
        Row(
            label=f"model {place}",
            activation=ACTIVATIONS[place % len(ACTIVATIONS)],
            method=METHODS[place % len(METHODS)],
            recipe=f"recipe-{place // len(ACTIVATIONS):03d}",
            seed=0,
            trained_for=Threat(norm="Linf", eps=8 / 255),
            config=f"{place:016x}",
            model_digest=f"sha256:{place:064x}",
            dataset="cifar10",
            split="test",
            norm="Linf",
            eps=8 / 255,
            attack=AUTOATTACK.id,
            attacks=(AUTOATTACK,),
            n=10_000,
            clean_correct=draw.randint(8000, 9500),
            robust=draw.randint(2000, 7000),
            violations=0,
            forward=10_000_000,
            backward=2_000_000,
            eval_seeds=(0,),
            data_digests=(f"sha256:{0:064x}",),
            versions={"satbench": "0.1.0", "torch": "2.15.0"},
            revision="0" * 40,
        )
        for place in range(models)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    start = time.perf_counter()
    page = leaderboard.build(rows(asked.models))["cifar10.html"]
    print(f"{asked.models} models: {len(page.encode()) / 1e6:.2f} MB, built in {time.perf_counter() - start:.1f} s")
    paints, ready, handled, shown = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder, "cifar10.html")
        path.write_text(page, encoding="utf-8")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for _ in range(asked.repeats):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(path.as_uri())
            tab.locator(".chart svg").first.wait_for()
            ready.append(tab.evaluate("performance.now()"))
            paints.append(tab.evaluate(PAINT))
            for _ in range(4):
                times = tab.evaluate(SORT)
                handled.append(times[0])
                shown.append(times[1])
            tab.close()
        browser.close()
    for name, times in (("first paint", paints), ("ready", ready), ("sort", handled), ("sort, shown", shown)):
        print(f"{name}: {statistics.median(times):.0f} ms (up to {max(times):.0f})")


if __name__ == "__main__":
    main()
