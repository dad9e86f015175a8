"""Workers anywhere, killed at any time, leave the same bytes; what cannot work is refused in one line."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import engine_work
import pytest
from engine_work import call_for, content, unfinished, workers_in

from satbench.core.errors import BadInput
from satbench.core.home import claimed
from satbench.engines import Call, Engine, Resources, make_engine, run_workers
from satbench.engines.base import Order
from satbench.engines.local import LocalEngine
from satbench.engines.process import WorkerProcess

PIECES = 30


@pytest.fixture(autouse=True, scope="module")
def _workers_find_this_folder() -> Iterator[None]:
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        yield


@pytest.fixture
def local() -> Iterator[Engine]:
    engine = make_engine("local:2")
    yield engine
    engine.close()


def run(engine: Engine, folder: Path, tick: Callable[[], None] = lambda: None, seconds: float = 0.01) -> None:
    call = call_for(folder, PIECES, seconds)
    run_workers(engine, call, Resources(), lambda: len(unfinished(folder, PIECES)), tick)


def files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir() if not file.name.startswith(".")}


def is_right(folder: Path) -> bool:
    left = {file.name for file in folder.glob(".[!cp0-9]*")}  # besides claims, process ids, and a piece half written
    return not left and files(folder) == {str(piece): content(piece) for piece in range(PIECES)}


@pytest.mark.one_in(3)
@pytest.mark.parametrize("spelled", ["local:1", "local:2", "local:5"])
def test_any_number_of_killed_workers_leaves_the_same_bytes(spelled: str, tmp_path: Path) -> None:
    engine, kills, chance = make_engine(spelled), [0], random.Random(0)
    with ExitStack() as held:
        assert held.enter_context(claimed(tmp_path, "0"))  # workers cannot finish before two are killed

        def kill_one() -> None:
            if kills[0] < 2 and (alive := workers_in(tmp_path)):
                os.kill(chance.choice(alive), signal.SIGKILL)
                kills[0] += 1
            elif kills[0] == 2:
                held.close()

        run(engine, tmp_path, kill_one, seconds=0.05)
    assert kills == [2]
    assert is_right(tmp_path)
    assert not workers_in(tmp_path)


def test_a_worker_gets_its_own_gpus_and_as_many_threads_as_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,7")
    engine = make_engine("local")
    assert engine.slots(Resources(gpus=3)) == 1
    assert engine.slots(Resources(cpus=10**6)) == 0
    call = Call("engine_work:environment", {"folder": str(tmp_path)}, str(tmp_path))
    run_workers(make_engine("local:1"), call, Resources(cpus=3, gpus=2), lambda: not files(tmp_path))
    run_workers(make_engine("local:1"), call, Resources(), lambda: len(files(tmp_path)) < 2)
    assert files(tmp_path) == {"0": "3,5 3", "1": " 1"}
    with pytest.raises(BadInput, match="no machine has the 1 core and 4 GPUs that one worker needs"):
        run_workers(engine, call, Resources(gpus=4), lambda: 1)


def test_default_is_one_worker_for_each_core() -> None:
    assert make_engine("local").slots(Resources()) == len(os.sched_getaffinity(0))


def test_workers_work_while_their_sender_does_something_else(local: Engine, tmp_path: Path) -> None:
    done: list[int] = []

    def wait() -> None:
        end = time.monotonic() + 60
        while unfinished(tmp_path, PIECES) and time.monotonic() < end:
            time.sleep(0.05)
        done.append(PIECES - len(unfinished(tmp_path, PIECES)))

    for _ in range(2):  # the second time nothing is left to do
        run_workers(
            local, call_for(tmp_path, PIECES), Resources(), lambda: len(unfinished(tmp_path, PIECES)), meanwhile=wait
        )
    assert done == [PIECES]


def test_bad_input_of_a_worker_ends_all(local: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"^recipe nope does not exist; give another$"):
        run_workers(local, Call("engine_work:refuse", {}, str(tmp_path)), Resources(), lambda: 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.one_in(2)
@pytest.mark.parametrize(
    ("function", "said"),
    [
        ("fail", r"workers ended and nothing got done; the last ended with status 1 on .*KeyError: 'a mistake in the"),
        ("nothing", "workers ended and nothing got done; the last returned without an error"),
    ],
)
def test_workers_that_get_nothing_done_are_given_up(function: str, said: str, local: Engine, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=said) as refused:
        run_workers(local, Call(f"engine_work:{function}", {}, str(tmp_path)), Resources(), lambda: 1)
    assert "\n" not in str(refused.value)


def test_workers_share_a_url(tmp_path: Path) -> None:
    """Each has a folder of its own, and none computes what another one has."""
    engine, url = make_engine("local:2"), f"file://{tmp_path}/study"
    call = Call("engine_work:work", {"folder": url, "pieces": PIECES // 3, "seconds": 0.0}, url)
    (tmp_path / "study").mkdir()
    run_workers(engine, call, Resources(), lambda: len(unfinished(tmp_path / "study", PIECES // 3)))
    assert files(tmp_path / "study") == {str(piece): content(piece) for piece in range(PIECES // 3)}
    leases = list((tmp_path / "study" / ".leases").iterdir())
    assert not leases


def order_to(call: Call, **changes: object) -> Order:
    return Order(**{"call": call, "resources": Resources(), "token": "0" * 16, **changes})  # type: ignore[arg-type]


def test_a_folder_that_the_worker_does_not_see_is_refused(tmp_path: Path) -> None:
    ended = WorkerProcess(order_to(call_for(tmp_path, PIECES))).wait()
    assert ended.how == "refused"
    assert ended.message.startswith(f"{tmp_path} on {socket.gethostname()}, where a worker was started, is not the fol")
    assert not list(tmp_path.iterdir())


def test_a_worker_with_other_software_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f".token-{'0' * 16}").touch()
    call = Call("engine_work:refuse", {}, str(tmp_path), software="engine_work:software")
    same = WorkerProcess(order_to(call, software=engine_work.software())).wait()
    assert "recipe nope" in same.message
    monkeypatch.setenv("REVISION", "there")
    other = WorkerProcess(order_to(call, software={"torch": "2.11", "revision": "here"})).wait()
    assert other.how == "refused"
    assert other.message.endswith("has revision there, the study here; install the same on every machine")


def started(engine: str, folder: Path, seconds: float) -> subprocess.Popen[str]:
    """A study in a process of its own."""
    words = [sys.executable, engine_work.__file__, engine, str(folder), str(PIECES), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], bool], study: subprocess.Popen[str] | None = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        assert study is None or study.poll() is None, study.communicate()
        time.sleep(0.05)


@pytest.mark.left_out
def test_a_worker_that_its_engine_cannot_reach_ends_with_the_study(tmp_path: Path) -> None:
    token = tmp_path / f".token-{'0' * 16}"
    token.touch()
    worker = WorkerProcess(order_to(call_for(tmp_path, PIECES, 100)))
    wait_for(lambda: bool(workers_in(tmp_path)))
    assert worker.poll() is None
    token.unlink()
    assert worker.wait().message.startswith("was killed by SIGTERM")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_a_study_that_is_stopped(number: signal.Signals, tmp_path: Path) -> None:
    study = started("local:2", tmp_path, seconds=100)
    wait_for(lambda: len(workers_in(tmp_path)) == 2, study)
    study.send_signal(number)
    _, said = study.communicate(timeout=60)
    wait_for(lambda: not workers_in(tmp_path))
    assert said.splitlines()[-1:] == (["KeyboardInterrupt"] if number == signal.SIGINT else [])


@pytest.mark.parametrize(
    ("spelled", "said"),
    [
        ("lokal", "unknown engine 'lokal'; did you mean local?"),
        ("local:0", "engine local:0: '0' is not a number of workers; give a whole number from 1"),
        ("local:all", "engine local:all: 'all' is not a number of workers; give a whole number from 1"),
        ("ray:head", "engine ray:head: not an address; give HOST:PORT of the head, such as ray:10.0.0.1:6379"),
        ("slurm:x", "engine slurm:x: 'x' is not a number of workers; give a whole number from 1"),
        ("slurm:2,gpu", "engine slurm:2,gpu: 'gpu' is not key=value; write slurm:16,partition=gpu,time=60"),
        ("slurm:2,cluster=x", "engine slurm: cluster=x is unknown; leave it out, or give local for a trial"),
    ],
)
def test_an_engine_that_is_misspelled_is_refused(spelled: str, said: str) -> None:
    pytest.importorskip({"ray": "ray", "slurm": "submitit"}.get(spelled.partition(":")[0], "sys"))
    with pytest.raises(BadInput, match=f"^{re.escape(said)}$"):
        make_engine(spelled)


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_names_its_extra(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=rf"^engine {name} needs its extra: pip install 'satbench\[{name}\]'$"):
        make_engine(name)


def test_an_address_that_does_not_answer_is_refused_at_once() -> None:
    pytest.importorskip("ray")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(BadInput, match=rf"^engine ray:{address} does not answer \(.*\); start it with ray start"):
            make_engine(f"ray:{address}")
        assert time.monotonic() - start < 10


def test_slurm_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match="this machine has no sbatch; start the study where jobs are submitted"):
        make_engine("slurm:2")


@pytest.mark.left_out
def test_workers_of_an_array_leave_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    engine, kills = make_engine("slurm:2,cluster=local"), [0]

    def kill_one() -> None:
        if kills[0] < 1 and (alive := workers_in(tmp_path)):
            os.kill(alive[0], signal.SIGKILL)
            kills[0] += 1

    run(engine, tmp_path, kill_one, seconds=0.05)
    engine.close()
    assert kills == [1]
    assert is_right(tmp_path)


SMALL_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Ray cluster of one node with one core, on this machine; it notices within seconds that a node is lost."""
    os.environ.update({"RAY_raylet_start_wait_time_s": "120"})
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args={**SMALL_NODE, "_system_config": soon})
    yield made
    made.shutdown()


@pytest.mark.slow
def test_a_ray_cluster_that_loses_a_node_leaves_the_same_bytes(cluster: Any, tmp_path: Path) -> None:
    """One of two nodes is removed while both work; a third one joins and gets a worker."""
    second = cluster.add_node(**SMALL_NODE)
    study = started(f"ray:{cluster.address}", tmp_path, seconds=2)
    wait_for(lambda: len(workers_in(tmp_path)) == 2 and len(files(tmp_path)) > 4, study)
    cluster.remove_node(second, allow_graceful=False)
    wait_for(lambda: len(workers_in(tmp_path)) == 1, study)
    cluster.add_node(**SMALL_NODE)
    wait_for(lambda: len(workers_in(tmp_path)) == 2, study)
    assert study.communicate(timeout=100) == ("", "")
    assert is_right(tmp_path)
    assert not workers_in(tmp_path)


@pytest.mark.slow
def test_a_study_whose_ray_head_is_gone_ends_with_a_line(cluster: Any, tmp_path: Path) -> None:
    study = started(f"ray:{cluster.address}", tmp_path, seconds=100)
    wait_for(lambda: bool(workers_in(tmp_path)), study)
    cluster.head_node.kill_gcs_server()
    _, said = study.communicate(timeout=100)
    assert re.search(r"satbench: the head of the Ray cluster, \S+, does not answer any more; start it again", said)
    wait_for(lambda: not workers_in(tmp_path))


def test_a_worker_elsewhere_knows_the_registries_and_modules_that_the_sender_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(LocalEngine):
        """Starts workers on a machine without the sender's variables."""

        def start(self, order: Order, count: int) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.delenv("SATBENCH_ZOO")
                return super().start(order, count)

    monkeypatch.setenv("SATBENCH_ZOO", "their/zoo.yaml")
    call = Call("engine_work:tell", {"variable": "SATBENCH_ZOO"}, str(tmp_path))
    with pytest.raises(BadInput, match=r"^their/zoo\.yaml$"):
        run_workers(Elsewhere(1), call, Resources(), lambda: 1)
