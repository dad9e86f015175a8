"""Work for the workers of tests/test_engines.py, and a study of it: engine_work.py ENGINE FOLDER PIECES SECONDS

The work is numbered pieces of a folder. Each is claimed and takes some seconds.
"""

import hashlib
import os
import sys
import time
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.home import claimed
from satbench.core.shared import shared
from satbench.engines import Call, Resources, make_engine, run_workers


def work(folder: str, pieces: int, seconds: float) -> None:
    """Compute the pieces that no other worker computes, until all are there; leave a file that names this process."""
    with shared(folder) as place:
        Path(place, f".pid-{os.getpid()}").touch()
        while missing := unfinished(place, pieces):
            for piece in missing:
                with claimed(place, str(piece)) as mine:
                    if mine and not (place / str(piece)).exists():
                        time.sleep(seconds)
                        write_text(place / str(piece), content(piece))
            time.sleep(0.05)


def content(piece: int) -> str:
    return hashlib.sha256(str(piece).encode()).hexdigest()


def unfinished(folder: str | Path, pieces: int) -> list[int]:
    there = set(os.listdir(folder))
    return [piece for piece in range(pieces) if str(piece) not in there]


def call_for(folder: Path, pieces: int, seconds: float = 0.0) -> Call:
    return Call("engine_work:work", {"folder": str(folder), "pieces": pieces, "seconds": seconds}, str(folder))


def workers_in(folder: Path) -> list[int]:
    """Processes that worked in the folder and live, zombies left out."""
    pids = [int(file.name.removeprefix(".pid-")) for file in folder.glob(".pid-*")]
    return [pid for pid in pids if is_alive(pid)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def tell(variable: str) -> None:
    raise BadInput(os.environ.get(variable, "nothing"))


def refuse() -> None:
    raise BadInput("recipe nope does not exist; give another")


def fail() -> None:
    raise KeyError("a mistake in the code")


def nothing() -> None:
    """Return while work is left."""


def environment(folder: str) -> None:
    """Write down what of the environment the engine decides."""
    seen = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")]
    write_text(Path(folder, str(len(list(Path(folder).glob("[0-9]*"))))), " ".join(seen))


def software() -> dict[str, str]:
    return {"torch": "2.11", "revision": os.environ.get("REVISION", "here")}


def main() -> None:
    engine, folder, pieces, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
    running = make_engine(engine)
    try:
        run_workers(running, call_for(folder, pieces, seconds), Resources(), lambda: len(unfinished(folder, pieces)))
    except BadInput as error:
        sys.exit(f"satbench: {error}")
    finally:
        running.close()


if __name__ == "__main__":
    main()
