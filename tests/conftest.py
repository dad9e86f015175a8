import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch

# one thread unless the environment says otherwise: the tests' networks are too small for more, and bits depend on it
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# a shell starts background jobs with Ctrl-C ignored, and the processes that tests interrupt would inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `left_out` are slow, and of a test marked `one_in(k)` all cases but every k-th are `left_out`."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is not None and item.get_closest_marker("slow") is None:
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                item.add_marker(pytest.mark.left_out)
            seen[test] += 1
        if item.get_closest_marker("left_out") is not None:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def outside_of_github(monkeypatch: pytest.MonkeyPatch) -> None:
    """No annotations and no summaries, also where the tests run on GitHub."""
    for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of models, and none of the user's registries, caches, mirrors, tokens and proxies."""
    for name in ("SATBENCH_ZOO", "SATBENCH_OFFLINE", "SATBENCH_SHARED", "SATBENCH_MIRROR", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def no_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every connection goes to a proxy that is not there."""
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two mirrors, `one` and `two`, each with other weights of one released network."""
    from released_checkpoints import RELEASE, write_checkpoint

    root = tmp_path_factory.mktemp("mirrors")
    for seed, name in enumerate(("one", "two")):
        (root / name / RELEASE).mkdir(parents=True)
        write_checkpoint(root / name / RELEASE / RELEASE, seed)
    return root
