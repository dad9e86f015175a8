"""`satbench check` and `satbench compare --until-settled` on small networks, from study file to exit code."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.evaluation import evaluate
from satbench.recipes.table import RECIPES
from satbench.regression import read_baseline, write_baseline
from satbench.results.store import read_run
from satbench.study.gate import read_suite

N = 150
SUITE = """
models: {{model: "gate_networks:build:kind={kind}", name: mine}}
evaluations: [{{dataset: digits, attacks: "pgd:steps=5", threats: [Linf:0.05, Linf:0.1], n: {n}{more}}}]
gate: {{drop: {drop}}}
"""


def suite(folder: Path, kind: str = "plain", drop: float = 10, more: str = "", n: int = N) -> Path:
    file = folder / "mine.yaml"
    file.write_text(SUITE.format(kind=kind, drop=drop, more=more, n=n))
    return file


def check(*words: object) -> Result:
    return CliRunner().invoke(app, ["check", *map(str, words)])


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("approved")
    done = check(suite(folder), "--approve", "first figures")
    assert done.exit_code == 0, done.output
    assert "3 figures approved" in done.stdout
    assert "mine, PGD-5: trust not checked; " in done.stdout
    return folder / "mine.baseline.json"


@pytest.fixture
def folder(baseline: Path, tmp_path: Path) -> Path:
    (tmp_path / baseline.name).write_bytes(baseline.read_bytes())
    return tmp_path


def verdict(done: Result) -> dict[str, Any]:
    (found,) = json.loads(done.stdout)
    return found


@pytest.mark.left_out
def test_an_unchanged_network_is_cleared_on_some_of_the_images_and_compared_on_all_if_asked(folder: Path) -> None:
    done = check(suite(folder))
    assert done.exit_code == 0, done.output
    assert f"unchanged after 64 of {N} images" in done.stdout
    whole = check(suite(folder, drop=0), "--json")
    assert whole.exit_code == 0, whole.output
    (network,) = verdict(whole)["networks"]
    assert {one["basis"] for one in network["figures"]} == {"bit for bit"}
    assert {(one["n"], tuple(one["lost"] + one["gained"])) for one in network["figures"]} == {(N, ())}
    assert network["trust_now"] == network["trust_before"]


@pytest.mark.parametrize("kind", ["planted", "slip"])
def test_a_broken_network_is_caught_early_and_its_flipped_images_are_named(kind: str, folder: Path) -> None:
    done = check(suite(folder, kind))
    assert done.exit_code == 1, done.output
    assert f"changed after 64 of {N} images" in done.stdout
    assert "changed: mine, PGD-5: " in done.stderr
    assert "lost" in done.stderr


@pytest.mark.left_out
def test_a_masked_network_fails_though_its_number_rose_and_every_output_says_so(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    junit, page, summary = folder / "junit.xml", folder / "gate.html", folder / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    done = check(suite(folder, "masked"), "--json", "--junit", junit, "--html", page)
    assert done.exit_code == 1, done.output
    said = summary.read_text()
    assert said.startswith("before\n## Robustness: changed\n")
    shown = page.read_text()
    assert "<h1>Robustness: changed</h1>" in shown
    assert "no evidence of robustness" in shown
    annotated = [line for line in done.stderr.splitlines() if line.startswith("::error ")]
    assert annotated[0].startswith("::error title=mine%2C PGD-5%3A trust::")
    root = ElementTree.fromstring(junit.read_text())
    (failed,) = [one for one in root.iter("testcase") if one.attrib["name"] == "trust"]
    failure = failed.find("failure")
    assert failure is not None
    for text in (said, shown, annotated[0], failure.attrib["message"], done.stdout):
        assert "trust not checked before, fail now; trust fell" in text
    pictures = re.findall(r'<img src="data:image/png;base64,[^"]+" alt="([^"]+)"', shown)
    gained = verdict(done)["networks"][0]["figures"][-1]["gained"]
    assert any(one.startswith(f"{sample}, original, label ") for one in pictures for sample in gained)
    (network,) = verdict(done)["networks"]
    robust = network["figures"][-1]
    assert robust["now"] > robust["before"]
    assert (network["trust_before"], network["trust_now"]) == ("not checked", "fail")
    assert network["trust_state"] == "changed"
    assert "cannot be believed" in network["trust_sentence"]
    refused = check(suite(folder, "masked"), "--approve", "look how robust")
    assert refused.exit_code == 2
    assert "trust verdict is fail" in refused.stderr


def test_the_page_draws_what_flipped_with_its_attacked_image(folder: Path) -> None:
    page = folder / "gate.html"
    done = check(suite(folder, "planted"), "--html", page, "--device", "auto")
    assert done.exit_code == 1, done.output
    shown = page.read_text()
    lost = re.findall(r'alt="(digits/\d+), original, label (class \d)"', shown)
    attacked = re.findall(r'alt="(digits/\d+), attacked, predicted (class \d)"', shown)
    assert set(attacked).isdisjoint(lost)
    assert {sample for sample, _ in attacked} <= {sample for sample, _ in lost}
    assert len(attacked) >= 3
    for words in ("digest_before", "satbench check", "--device auto", "--approve REASON", "Numerics before"):
        assert (words in shown) == (words != "digest_before")


@pytest.mark.left_out
def test_a_check_goes_on_with_what_it_kept(folder: Path) -> None:
    for kind in ("plain", "planted", "plain"):
        done = check(suite(folder, kind), "--out", folder / "kept")
        assert done.exit_code == (kind == "planted"), done.output


def test_outputs_say_why_a_suite_could_not_be_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    junit, page, summary = folder / "junit.xml", folder / "gate.html", folder / "summary.md"
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    asked = suite(folder)
    held = json.loads((folder / "mine.baseline.json").read_text())
    del held["measured"]["mine, PGD-5"]["figures"]["PGD-5 at Linf 0.1"]
    (folder / "mine.baseline.json").write_text(json.dumps(held))
    done = check(asked, "--junit", junit, "--html", page)
    assert done.exit_code == 2, done.output
    why = "was changed after it was approved: its digest does not match"
    (failure,) = ElementTree.fromstring(junit.read_text()).iter("failure")
    assert why in failure.attrib["message"]
    assert "not compared" in page.read_text()
    for text in (page.read_text(), summary.read_text(), done.stderr):
        assert why in text
    assert "::error title=robustness not compared::" in done.stderr


def test_bad_outputs_are_refused_before_anything_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, mine = suite(folder), folder / "mine.txt"
    mine.write_text("mine")
    before = sorted(folder.rglob("*"))
    for words, hint in (
        (("--junit", folder), "not a plain file"),
        (("--junit", mine), "is a file other than XML"),
        (("--junit", "/proc/none/y.xml"), "cannot be written to; give another folder"),
        (("--engine", "foo"), "unknown engine 'foo'"),
        (("--out", mine), "mine.txt is a file; give a folder"),
        ((folder / "." / asked.name,), "is given twice; give each suite once"),
        (("--html", asked), "is not a page of this satbench"),
        (("--html", mine / "x.html"), "is a file; give a folder"),
        (("--html", folder / "new", "--junit", folder / "new"), "are one file"),
        (("--html", folder / "new", "--power"), "--junit and --html hold a verdict"),
        (("--junit", folder / "new", "--approve", "why"), "--junit and --html hold a verdict"),
    ):
        done = check(asked, *words)
        assert (done.exit_code, done.stdout) == (2, ""), done.output
        assert hint in done.stderr
        assert done.stderr.count("\n") == 1
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(folder))
    assert "GITHUB_STEP_SUMMARY" in check(asked).stderr
    assert sorted(folder.rglob("*")) == before
    assert mine.read_text() == "mine"


@pytest.mark.slow
def test_an_ensemble_that_draws_for_units_of_images_is_gated_in_growing_batches(tmp_path: Path) -> None:
    def ensemble(kind: str) -> Path:
        file = tmp_path / "mine.yaml"
        file.write_text(
            f"models: {{model: 'gate_networks:build:kind={kind}', name: mine}}\n"
            "evaluations: [{dataset: digits, attacks: ['autoattack:unit=16', fgsm], threats: Linf:0.2, n: 80}]\n"
            "gate: {drop: 15}\n"
        )
        return file

    held = tmp_path / "mine.baseline.json"
    assert check(ensemble("plain"), "--approve", "first").exit_code == 0
    done = check(ensemble("plain"), "--json")
    assert done.exit_code == 0, done.output
    (network,) = verdict(done)["networks"]
    assert network["n"] == 80
    assert [one["figure"] for one in network["figures"]] == [
        "clean",
        "AutoAttack standard at Linf 0.2",
        "FGSM at Linf 0.2",
        "worst case at Linf 0.2",
    ]
    assert {one["basis"] for one in network["figures"]} == {"bit for bit"}
    there = read_baseline(held)
    elsewhere = {name: one.model_copy(update={"numerics": "other"}) for name, one in there.measured.items()}
    write_baseline(held, there.model_copy(update={"measured": elsewhere}))
    for kind, code in (("plain", 0), ("slip", 1)):
        done = check(ensemble(kind), "--json", "--html", tmp_path / "gate.html", "--out", tmp_path / "kept")
        assert done.exit_code == code, done.output
        (network,) = verdict(done)["networks"]
        assert network["n"] == 64
        assert {one["basis"] for one in network["figures"]} == {"paired"}
    assert "AutoAttack standard at Linf 0.2: " in (tmp_path / "gate.html").read_text()


def test_a_baseline_from_another_machine_is_compared_in_pairs(folder: Path) -> None:
    file = folder / "mine.baseline.json"
    held = read_baseline(file)
    elsewhere = {name: one.model_copy(update={"numerics": "other"}) for name, one in held.measured.items()}
    write_baseline(file, held.model_copy(update={"measured": elsewhere}))
    same, broken = check(suite(folder), "--json"), check(suite(folder, "slip"), "--json")
    for done, code in ((same, 0), (broken, 1)):
        assert done.exit_code == code, done.output
        found = verdict(done)
        assert {one["basis"] for one in found["networks"][0]["figures"]} == {"paired"}
        assert found["networks"][0]["n"] < N


def test_tampered_baselines_and_other_suites_are_refused_before_anything_is_measured(folder: Path) -> None:
    file = folder / "mine.baseline.json"
    text = file.read_text()
    file.write_text(text.replace('"reason": "first', '"reason": "last'))
    done = check(suite(folder))
    assert done.exit_code == 2
    assert "was changed after it was approved" in done.stderr
    file.write_text(text)
    for more, words in (
        (", tolerance: {PGD-9 at Linf 0.1: 1}", "there is no figure 'PGD-9 at Linf 0.1'; the figures are clean, PGD-5"),
        (", tolerance: -1", "field 'evaluations.0.tolerance.all': Input should be greater than or equal to 0"),
        (", published: {clean: {rate: 9}}", r"published.clean.n"),
    ):
        done = check(suite(folder, more=more))
        assert done.exit_code == 2, done.output
        assert words in done.stderr
    for old, new, words in (
        (
            f"n: {N}",
            "n: 100",
            "was approved on 150 images, the suite has 100; restore the study file",
        ),
        (f"n: {N}", f"n: {N}, seed: 3", "another setting of the study file) is not the one that was approved; restore"),
        ("Linf:0.1]", "Linf:0.2]", "the figure 'PGD-5 at Linf 0.1' is approved and not measured; restore the study"),
        ("{dataset", "{of: [a], dataset", "field 'evaluations.0.of': give a mapping of fields"),
    ):
        asked = suite(folder)
        asked.write_text(asked.read_text().replace(old, new))
        done = check(asked)
        assert done.exit_code == 2, done.output
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    file.unlink()
    assert "satbench check STUDY.yaml --approve" in check(suite(folder)).stderr
    (folder / "none.yaml").write_text("trainings: [{recipes: digits-quick}]")
    with pytest.raises(BadInput, match="has no evaluations"):
        read_suite(folder / "none.yaml")


def test_approving_says_what_changes(folder: Path) -> None:
    done = check(suite(folder, "planted", n=64), "--approve", "fewer images")
    assert done.exit_code == 0, done.output
    assert "mine, PGD-5: clean: " in done.stdout
    assert f" of {N} right -> " in done.stdout
    assert read_baseline(folder / "mine.baseline.json").reason == "fewer images"


def test_a_reason_with_a_line_break_forges_no_verdict(folder: Path) -> None:
    file = folder / "mine.baseline.json"
    write_baseline(file, read_baseline(file).model_copy(update={"reason": "ok)\n## Robustness: unchanged"}))
    done = check(suite(folder))
    assert done.exit_code == 0, done.output
    assert "(approved: ok) ## Robustness: unchanged)" in done.stdout


@pytest.mark.left_out
def test_trust_that_needs_more_images_is_announced(folder: Path) -> None:
    file = folder / "mine.baseline.json"
    held = read_baseline(file)
    trusted = {name: one.model_copy(update={"trust": "pass"}) for name, one in held.measured.items()}
    write_baseline(file, held.model_copy(update={"measured": trusted}))
    done = check(suite(folder))
    assert done.exit_code == 1, done.output
    lines = done.stderr.splitlines()
    assert lines[0] == f"64 of {N} images; figures settled"
    assert lines[1] == f"{lines[0]}; mine, PGD-5: trust: not checked on 64 images, looking at more"


@pytest.mark.parametrize("is_kept", [False, True])
def test_an_interrupted_check_promises_to_continue_only_what_it_keeps(
    is_kept: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("satbench.study.gate.run_request", interrupted)
    done = check(suite(folder), *(("--out", folder / "kept") if is_kept else ()))
    assert done.exit_code == 130
    kept, lost = "run the same command again to resume", "nothing was kept; give --out FOLDER to continue after an"
    assert (kept in done.stderr, lost in done.stderr) == (is_kept, not is_kept)


def test_a_published_rate_needs_no_baseline(tmp_path: Path) -> None:
    for rate, code in ((90, 0), (50, 1)):
        done = check(suite(tmp_path, more=f", published: {{clean: {{rate: {rate}, n: 1000}}}}"), "--json")
        assert done.exit_code == code, done.output
        ((figure,),) = [one["figures"] for one in verdict(done)["networks"]]
        assert (figure["basis"], figure["n"]) == ("published", N)


@pytest.mark.left_out
def test_power_says_which_drop_is_seen_and_what_it_takes(tmp_path: Path) -> None:
    done = check(suite(tmp_path, n=450), "--power")
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("| mine, PGD-5 | clean")]
    cells = [cell.strip() for cell in line.strip("| ").split("|")]
    assert cells[2].startswith("450, ")
    seen, needed, unchanged, twice = (float(cell.partition(",")[0]) for cell in cells[4:])
    assert 2 < seen < 5
    assert unchanged < twice < needed < 450
    assert "The time includes the trust battery, at most a tenth of the passes" in done.stdout
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.left_out
def test_power_has_all_images_measured_at_once_where_bits_of_units_are_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def planned() -> set[str]:
        done = check(file, "--power")
        assert done.exit_code == 0, done.output
        cells = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| mine")]
        return {one[-2].partition(",")[0].strip() for one in cells}

    file, baseline = suite(folder, drop=30), folder / "mine.baseline.json"
    held = read_baseline(baseline)
    monkeypatch.setattr("satbench.study.planned.unit_of_attacks", lambda asked: 16)
    assert planned() == {str(N)}
    elsewhere = {name: one.model_copy(update={"numerics": "other"}) for name, one in held.measured.items()}
    write_baseline(baseline, held.model_copy(update={"measured": elsewhere}))
    assert planned() == {"64"}
    baseline.unlink()
    assert planned() == {str(N)}


@pytest.mark.slow
def test_the_gate_trains_and_fails_on_a_planted_change_of_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = RECIPES["digits-quick"]().with_values({"recipe": "digits-quick", "epochs": 1, "method.steps": 1})
    monkeypatch.setitem(RECIPES, "digits-quick", lambda: quick)
    file = tmp_path / "mine.yaml"
    file.write_text(
        "trainings: [{recipes: digits-quick, seeds: 0}]\n"
        "evaluations: [{attacks: fgsm, threats: Linf:0.1, tolerance: 5, n: 64}]\n"
    )
    done = check(file, "--approve", "first")
    assert done.exit_code == 0, done.output
    slower = quick.with_values({"recipe": "digits-quick", "optimizer.lr": 0.01})
    monkeypatch.setitem(RECIPES, "digits-quick", lambda: slower)
    changed = check(file)
    assert changed.exit_code == 1, changed.output
    assert "beyond the accepted +5.0 points" in changed.stderr


@pytest.mark.left_out
def test_two_runs_grow_until_it_is_settled_which_is_more_robust(tmp_path: Path) -> None:
    for kind in ("plain", "planted"):
        evaluate(f"gate_networks:build:kind={kind}", tmp_path / kind, "pgd:steps=5", eps=0.05, dataset="digits", n=20)
    compare = ["compare", "--until-settled", str(tmp_path / "plain"), str(tmp_path / "planted")]
    done = CliRunner().invoke(app, compare)
    assert done.exit_code == 0, done.output
    assert "PGD-5 at Linf 0.05" in done.stdout
    n = read_run(tmp_path / "plain").manifest.data.n
    assert 20 < n < 450
    assert read_run(tmp_path / "planted").manifest.data.n == n
    assert "higher" in done.stdout
    evaluate("gate_networks:build:kind=masked", tmp_path / "masked", "pgd:steps=5", eps=0.05, dataset="digits", n=20)
    believed = CliRunner().invoke(app, [*compare[:-1], str(tmp_path / "masked")])
    assert "trust fail: gradients: " in believed.stdout
    assert f"{tmp_path / 'masked'}: its trust verdict is fail; its figures cannot be believed" in believed.stdout
    evaluate("gate_networks:build", tmp_path / "fgsm", "fgsm", eps=0.05, dataset="digits", n=20)
    other = CliRunner().invoke(app, [*compare[:-1], str(tmp_path / "fgsm")])
    assert other.exit_code == 2
    assert "share no attack at the same threat" in other.stderr


@pytest.mark.one_in(2)
@pytest.mark.parametrize(("name", "hint"), [("mine.yaml", "there is no baseline"), ("absent.yaml", "no such file")])
def test_missing_files_are_refused_without_torch(name: str, hint: str, tmp_path: Path) -> None:
    suite(tmp_path)
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from satbench.cli import app\n"
        f"app(['check', {str(tmp_path / name)!r}], prog_name='satbench')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert hint in line
