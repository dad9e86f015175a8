"""Random kills of workers and studies, or losses of Ray nodes: engine_kills.py local|ray FOLDER KILLS

Prints how many processes were killed, and what is wrong in the folder at the end: missing or different pieces, files
left over, processes that live on.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import engine_work
from engine_work import content, unfinished, workers_in

PIECES_EACH = 30  # of one kill, so that there is work until the last


def kill_locally(folder: Path, kills: int, chance: random.Random) -> list[str]:
    """A fifth of the kills meets the study, which is started again, the others a worker."""
    study, killed = start("local:2", folder, kills), []
    while len(killed) < kills:
        time.sleep(chance.uniform(0.05, 0.6))
        if not (alive := workers_in(folder)):
            continue
        if chance.random() < 0.2:
            study.kill()
            study.wait()
            study = start("local:2", folder, kills)
            killed.append("study")
        else:
            os.kill(chance.choice(alive), signal.SIGKILL)
            killed.append("worker")
        assert unfinished(folder, kills * PIECES_EACH), "the work ended before the kills did"
    assert study.wait(600) == 0
    return killed


def lose_nodes(folder: Path, kills: int, chance: random.Random) -> list[str]:
    """A cluster of two nodes loses one, gets another, and so on; a fifth of the times the study is killed as well."""
    os.environ.update({"RAY_raylet_start_wait_time_s": "120"})
    from ray.cluster_utils import Cluster

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    soon = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "_system_config": soon})
    engine = f"ray:{cluster.address}"
    second, killed = cluster.add_node(**small), []
    study = start(engine, folder, kills)
    for _ in range(kills):
        while len(workers_in(folder)) < 2:
            assert study.poll() is None
            time.sleep(0.1)
        time.sleep(chance.uniform(0.1, 2))
        cluster.remove_node(second, allow_graceful=False)
        killed.append("node")
        if chance.random() < 0.2:
            study.kill()
            study.wait()
            study = start(engine, folder, kills)
            killed.append("study")
        second = cluster.add_node(**small)
    assert unfinished(folder, kills * PIECES_EACH), "the work ended before the kills did"
    assert study.wait(600) == 0
    cluster.shutdown()
    return killed


def start(engine: str, folder: Path, kills: int) -> subprocess.Popen[bytes]:
    seconds = "0.02" if engine.startswith("local") else "2"
    pieces = str(kills * PIECES_EACH)
    return subprocess.Popen([sys.executable, engine_work.__file__, engine, str(folder), pieces, seconds])


def faults(folder: Path, pieces: int) -> list[str]:
    """What a study that was never killed would not leave."""
    found = [f"process {pid} lives" for pid in workers_in(folder)]
    wanted = {str(piece): content(piece) for piece in range(pieces)}
    seen = {file.name: file.read_text() for file in folder.iterdir() if not file.name.startswith(".")}
    return found + sorted(name for name in wanted | seen if wanted.get(name) != seen.get(name))


def main() -> None:
    engine, folder, kills = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    folder.mkdir(parents=True)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    begun = time.monotonic()
    killed = {"local": kill_locally, "ray": lose_nodes}[engine](folder, kills, random.Random(0))
    counts = ", ".join(f"{what} {killed.count(what)}" for what in dict.fromkeys(killed))
    wrong = faults(folder, kills * PIECES_EACH)
    sys.stdout.write(f"killed in {time.monotonic() - begun:.0f} s: {counts}; wrong: {wrong or 'nothing'}\n")


if __name__ == "__main__":
    main()
