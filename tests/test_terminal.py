"""What commands print on a terminal and elsewhere, and what they refuse before they import torch."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import satbench
from satbench.cli import app
from satbench.core.devices import check_device
from satbench.core.errors import BadInput
from satbench.core.tables import DATA_SETS, RECIPES
from satbench.results.store import read_run
from satbench.specs.names import check_model, check_recipe

START = """
import sys
from satbench.cli import main
sys.argv = ["satbench", *sys.argv[1:]]
try:
    main()
finally:
    print("imported:", *sorted({"torch", "pandas"} & set(sys.modules)))
"""
EVAL = ["eval", "--model", "digits-silu", "--device", "cpu"]
RUN = [*EVAL, "--attack", "pgd:steps=2", "--eps", "0.1,0.2", "--n", "20", "--out", "run"]


def call(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def started(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", START, *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two networks."""
    folder = tmp_path_factory.mktemp("measured")
    for model in ("digits-silu", "digits-relu"):
        words = [*RUN[:-1], str(folder / model)]
        words[2] = model
        assert call(*words).exit_code == 0
    return folder


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Standard output as a terminal of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    shown = io.StringIO()

    class Terminal(Console):
        def __init__(self, **options: bool) -> None:
            if options.get("stderr"):
                super().__init__(file=io.StringIO())
            else:
                super().__init__(file=shown, width=80, force_terminal=True, color_system="standard")

    monkeypatch.setattr("rich.console.Console", Terminal)
    return shown


# refused before torch


@pytest.mark.one_in(19)
@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([*EVAL, "--attack", "pdg"], "unknown attack 'pdg'; did you mean pgd"),
        ([*EVAL, "--attack", "pgd", "--attack", "fgms"], "did you mean fgsm"),
        (["eval", "--model", "digits-sil", "--attack", "pgd"], "unknown model 'digits-sil'; did you mean digits-silu"),
        (["eval", "--model", "cnn-small", "--attack", "pgd"], "train it first"),
        ([*EVAL, "--attack", "pgd", "--dataset", "digit"], "unknown data set 'digit'; did you mean digits"),
        ([*EVAL, "--attack", "pgd", "--dataset", "npz"], "npz:PATH"),
        ([*EVAL, "--attack", "pgd", "--eps", "8"], "did you mean 8/255?"),
        ([*EVAL, "--attack", "pgd", "--norm", "linf"], "did you mean Linf"),
        ([*EVAL, "--attack", "pgd", "--steps", "x"], "write 10,50"),
        ([*EVAL, "--attack", "pgd", "--from", "digits-rel"], "did you mean digits-relu"),
        ([*EVAL, "--attack", "pgd", "--quiet", "--verbose"], "--verbose and --quiet do not go together"),
        (["eval", "--model", "digits-silu", "--attack", "pgd", "--device", "foo"], "--device foo is not supported"),
        (["trust", "digits-silu", "--device", "mps"], "--device mps is not supported; give auto, cpu or cuda"),
        (["trust", "digits-sil"], "did you mean digits-silu"),
        (["trust", "digits-silu", "--n", "1001"], "give 1 to 1000"),
        (["trust", "digits-silu", "--norm", "linf"], "did you mean Linf"),
        (["train", "digits-stt"], "unknown recipe 'digits-stt'; did you mean digits-sat"),
        (["train", "--method", "pgd-at"], "unknown method 'pgd-at'; did you mean pgd_at"),
        (["train", "--set", "model=cnn-smal"], "unknown model 'cnn-smal'; did you mean cnn-small"),
        (["train", "--dataset", "digit"], "did you mean digits"),
        (["train", "--set", "epochs"], "is not KEY=VALUE"),
        (["cost", "--model", "digits-silu", "--attack", "pdg"], "did you mean pgd"),
        (["cost", "--recipe", "digits-stt"], "did you mean digits-sat"),
        (["study", "nothing.yaml"], "nothing.yaml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_cheap_to_check_is_refused_before_slow_imports(words: list[str], hint: str) -> None:
    done = started(*words)
    assert (done.returncode, done.stdout) == (2, "imported:\n"), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("satbench: ")
    assert hint in line


@pytest.mark.one_in(4)
@pytest.mark.parametrize(
    ("words", "first"),
    [
        (RUN, "eval digits-silu: pgd:steps=2, Linf 0.1, Linf 0.2, 20 images; time left follows"),
        (["trust", "digits-silu", "--n", "8"], "trust digits-silu: every check on 8 images; time left follows"),
        (["train", "digits-quick", "--dry-run"], "train digits-quick: a few updates say what it costs"),
        (["cost", "--recipe", "digits-quick"], "cost of train digits-quick: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_first_line_comes_before_slow_imports(words: list[str], first: str, tmp_path: Path) -> None:
    """The import of torch or pandas ends the process, so what was printed was printed before."""
    program = "import sys\nsys.modules['torch'] = sys.modules['pandas'] = None\n" + START
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines()[0].startswith(first), done.stderr
    assert done.returncode != 0


@pytest.mark.left_out
def test_names_without_torch_are_those_of_the_tables() -> None:
    from satbench.trust import SAMPLE
    from satbench.zoo.registry import read_aliases, read_cards

    for name in (*read_cards(), *read_aliases(), "nowhere/run", "timm:resnet18", "weights.pt", "package.module:build"):
        check_model(name)
    for name in (*RECIPES, "config.json", "mine.yaml", "package.module:recipe"):
        check_recipe(name)

    from satbench.cli.trust import MOST

    assert SAMPLE["full"] == MOST


def test_names_of_own_registries_are_left_to_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="unknown model 'mine'"):
        check_model("mine")
    monkeypatch.setenv("SATBENCH_ZOO", "zoo.yaml")
    check_model("mine")


@pytest.mark.parametrize("name", ["foo", "mps", "", "cuda:", "cuda:x", "cpu:0", "cuda:1000000"])
def test_other_devices_are_refused(name: str) -> None:
    with pytest.raises(BadInput, match=r"is not supported; give auto, cpu or cuda"):
        check_device(name)


def test_a_device_that_is_absent_is_one_short_line() -> None:
    from satbench.numerics.device import resolve_device

    with pytest.raises(BadInput, match=r"^--device cuda:99 is not there: torch finds .*; give auto or cpu$"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("eval", "eval: missing option '--model'; see satbench eval --help"),
        ("eval --model x", "eval: missing option '--attack'; see satbench eval --help"),
        ("compare a", "compare: missing argument 'run_b'; see satbench compare --help"),
        ("eval --n x", "eval: invalid value for '--n': "),
        ("eval --foo", "eval: no such option: --foo"),
        ("evl", "no such command 'evl'. Did you mean 'eval'?; see satbench --help"),
        ("--foo", "no such option: --foo"),
        ("models list --foo", "models list: no such option: --foo"),
    ],
)
def test_wrong_options_are_one_line(words: str, line: str) -> None:
    done = call(*words.split())
    assert (done.exit_code, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.output
    assert done.stderr.startswith(f"satbench: {line}")


@pytest.mark.parametrize("command", ["eval", "trust", "train", "cost"])
def test_help_lists_every_data_set(command: str) -> None:
    words = "".join(re.sub(r"[│\s]", "", call(command, "--help").output).split())
    assert all(name + known.path.replace("[:PATH]", "") in words for name, known in DATA_SETS.items())


# what is printed


def test_eval_prints_a_small_table_and_a_verdict(measured: Path) -> None:
    run = read_run(measured / "digits-silu")
    words = [*RUN[:-1], str(run.path)]
    lines = call(*words).stdout.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert table[0] == "| threat | attack | n | clean % | robust % |"
    assert len(table) == 4
    assert lines[-3].startswith("robust ")
    assert " % at Linf 0.2 under PGD-2, n = 20; trust: " in lines[-3]
    assert lines[-2:] == [f"seal: {run.manifest.seal[:16]}", str(run.path)]
    assert not any("Wilson" in line for line in lines)
    assert call(*words, "--quiet").output.splitlines() == [lines[-3]]
    everything = call(*words, "--verbose").stdout
    assert "Intervals in brackets are 95% Wilson intervals" in everything
    assert lines[-3] in everything.splitlines()


def test_json_of_eval_and_compare_has_what_the_records_have(measured: Path) -> None:
    ours, theirs = (read_run(measured / name) for name in ("digits-silu", "digits-relu"))
    shown = json.loads(call(*RUN[:-1], str(ours.path), "--json").stdout)
    assert (shown["run"], shown["seal"]) == (str(ours.path), ours.manifest.seal)
    broken = ours.records.groupby("eps")["broken"].mean()
    assert [row["robust"] for row in shown["rows"]] == pytest.approx([1 - share for share in broken])
    assert shown["trust"]["verdict"] == ours.manifest.trust.verdict  # type: ignore[union-attr]
    compared = json.loads(call("compare", str(ours.path), str(theirs.path), "--json").stdout)
    assert [one["figure"] for one in compared["figures"]] == [
        "clean accuracy",
        "robust accuracy at Linf 0.1 under PGD-2",
        "robust accuracy at Linf 0.2 under PGD-2",
    ]
    last = compared["figures"][-1]
    assert last["right_a"] == 20 - ours.records[ours.records["eps"] == 0.2]["broken"].sum()
    assert last["only_a"] - last["only_b"] == last["right_a"] - last["right_b"]


def test_compare_prints_a_small_table_and_a_verdict(measured: Path) -> None:
    words = ["compare", str(measured / "digits-silu"), str(measured / "digits-relu")]
    lines = call(*words).stdout.splitlines()
    (head,) = [line for line in lines if line.startswith("| accuracy")]
    assert head == "| accuracy | n | A % | B % | A - B points |"
    assert lines[-1].startswith("robust accuracy at Linf 0.2 under PGD-2: A ")
    assert "Tango" not in "".join(lines)
    assert call(*words, "--quiet").output.splitlines() == lines[-1:]
    assert call(*words, "--json", "--until-settled").exit_code == 2


def test_trust_and_cost_print_json(tmp_path: Path) -> None:
    words = ["trust", "digits-silu", "--n", "8", "--device", "cpu", "--out", str(tmp_path / "page")]
    done = call(*words, "--json")
    shown = json.loads(done.stdout)
    stored = json.loads((tmp_path / "page" / "trust.json").read_text())
    assert {key: shown[key] for key in stored} == stored
    assert shown["threat"] == {"norm": "Linf", "eps": 0.2}
    brief = call(*words)
    assert brief.stdout.startswith("| check | outcome |\n")
    assert f"cnn-small silu at Linf 0.2: {stored['verdict']}" in brief.stdout.splitlines()
    cost = json.loads(call("cost", "--recipe", "digits-quick", "--device", "cpu", "--json").stdout)
    assert 0 < cost["low"] <= cost["seconds"] <= cost["high"]


def test_a_terminal_gets_columns_and_one_coloured_line_within_80(measured: Path, terminal: io.StringIO) -> None:
    silu, relu = str(measured / "digits-silu"), str(measured / "digits-relu")
    assert call(*RUN[:-1], silu).exit_code == 0
    assert call("compare", silu, relu).exit_code == 0
    shown = terminal.getvalue()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.splitlines())) <= 80
    assert "|" not in plain
    (verdict,) = [line for line in shown.splitlines() if "trust: " in line]
    assert re.match(r"\x1b\[1;3[23]mrobust ", verdict)


def test_a_pipe_gets_no_colour() -> None:
    program = "from satbench.cli.output import echo_verdict; echo_verdict('robust', 'good')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "robust\n"


def test_text_of_others_is_shown_in_tables_and_verdicts_as_it_is(terminal: io.StringIO) -> None:
    import pandas as pd

    from satbench.cli.output import echo_table, echo_verdict

    echo_table(pd.DataFrame({"[bold]a": ["[red]x[/red] \x1b[2J \x9b1m"]}))
    echo_verdict("[link=http://x]\x1b]0;mine\x07", "bad")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert "[bold]a" in shown
    assert r"[red]x[/red] \x1b[2J \x9b1m" in shown
    assert r"[link=http://x]\x1b]0;mine\x07" in shown
    assert not {"\x1b", "\x9b", "\x07"} & set(shown)


def test_bar_and_time_left_stay_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    from satbench.cli.progress import progress_bar

    shown = io.StringIO()
    monkeypatch.setattr(
        "rich.console.Console", lambda stderr: Console(file=shown, width=80, force_terminal=True, no_color=True)
    )
    with progress_bar("eval my-network-with-a-long-name relu") as report:
        report(1, 100, "an-attack-with-a-very-long-name, with all its settings, at Linf 8/255")
        report(50, 100, "an-attack-with-a-very-long-name, with all its settings, at Linf 8/255")
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.getvalue()).splitlines() if "50%" in line]
    assert lines
    assert all(len(line) <= 80 and re.search(r"━{6,}.* 50% +\S+ left an-attack", line) for line in lines), lines


def test_the_bar_names_attacks_by_their_short_names(tmp_path: Path) -> None:
    heard: list[str] = []
    settings = {"attack": ["pgd:steps=3,restarts=2"], "eps": 0.1, "n": 8, "trust": False, "device": "cpu"}
    satbench.evaluate("digits-silu", tmp_path, **settings, progress=lambda done, total, what: heard.append(what))
    assert set(heard) == {"PGD-3x2 Linf 0.1"}


@pytest.mark.left_out
def test_a_dry_run_lists_the_jobs_before_their_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from satbench.study import cost

    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(
        "trainings:\n  - recipes: digits-quick\n    seeds: [0, 1]\nevaluations:\n  - attacks: fgsm\n    n: 8\n"
    )
    before: list[str] = []
    predict = cost.predict_training
    out = io.StringIO()
    monkeypatch.setattr("satbench.cli.study.echo", lambda text, **_: out.write(f"{text}\n"))

    def watched(*given: object) -> cost.Cost:
        before.append(out.getvalue())
        return predict(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(cost, "predict_training", watched)
    done = call("study", "study.yaml", "--dry-run", "--device", "cpu")
    assert done.exit_code == 0, done.output
    lines = before[0].splitlines()
    assert [line.partition(" ")[0] for line in lines] == ["train", "train", "eval", "eval"]
    after = out.getvalue().splitlines()[4:]
    assert [line.partition(": ")[0] for line in after[:4]] == [line.split(": ")[0].split()[1] for line in lines]
    assert all(" passes, " in line for line in after[:4])


def test_the_status_of_a_study_names_every_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from satbench.specs.study import read_study
    from satbench.study.jobs import TRAINING, jobs_of

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(
        "trainings:\n  - recipes: digits-quick\n    overrides: {epochs: 1}\nevaluations:\n  - attacks: fgsm\n    n: 8\n"
    )
    (training,) = jobs_of(read_study(file), str(file)).trainings
    satbench.train(training.config, Path("out", training.name, TRAINING), "cpu")
    words = ["study", "study.yaml", "--out", "out", "--status"]
    shown = json.loads(call(*words, "--json").stdout)
    assert [(one["state"], one["done"]) for one in shown] == [("finished", 1.0), ("open", 0.0)]
    assert call(*words).stdout.splitlines()[-1] == "out: 1 finished, 1 open"
    assert call("study", "study.yaml", "--json").exit_code == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["out", "study.yaml"]
