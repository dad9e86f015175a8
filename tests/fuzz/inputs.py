"""Damage files in random ways, read each, and count what happened.

    python tests/fuzz/inputs.py --minutes 10 --seed 0

A mutant is refused with `BadInput`, read as the whole file was, or read as another value: a pixel or a number that
no digest covers. Everything else is a fault: another exception, a signal, more than 5 seconds of CPU, more than 1 GiB,
or code that was run. Prints a table of counts and exits with status 1 when there was a fault.
"""

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import random
import resource
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import yaml
from PIL import Image
from scipy.io import savemat

from satbench.core.errors import BadInput
from satbench.core.strict_yaml import shipped
from satbench.data import imagenet, load_images
from satbench.data.loaders import LOADERS
from satbench.data.matlab import read_table
from satbench.recipes import RECIPES
from satbench.recipes.file import read_recipe
from satbench.regression import read_baseline
from satbench.reporting.claims_file import read_claims
from satbench.specs.study import read_study
from satbench.zoo.registry import read_cards, registry_path

SECONDS, GIB = 5, 1 << 30
FAULTS = ("crash", "hang", "memory", "executed")
OUTCOMES = ("refused", "same", "another value", *FAULTS)
EXECUTES = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class"}


@dataclass(frozen=True)
class Kind:
    """A sort of file: its name, a whole one, and what a reader makes of one, as text."""

    file: str
    content: Callable[[], bytes]
    read: Callable[[Path], str]
    is_text: bool = False


def picture(form: str, mode: str = "RGB") -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    smooth = np.kron(rng.integers(0, 256, (5, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    Image.fromarray(smooth).convert(mode).save(buffer, form)
    return buffer.getvalue()


def pixels(file: Path) -> str:
    """Through every loader; a file that one of them refuses is refused."""
    return " ".join(hashlib.sha256(load(file, 24).tobytes()).hexdigest() for load in LOADERS.values())


def arrays(packed: bool) -> bytes:
    rng, buffer = np.random.default_rng(0), io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(buffer, x=rng.integers(0, 256, (6, 1, 8, 8), dtype=np.uint8), y=np.arange(6) % 2)
    return buffer.getvalue()


def archive() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(4):
            info = tarfile.TarInfo(f"val/ILSVRC2012_val_0000000{i}.JPEG")
            info.size = len(picture("JPEG"))
            tar.addfile(info, io.BytesIO(picture("JPEG")))
    return buffer.getvalue()


def members(file: Path) -> str:
    found = imagenet._members(file)
    return repr([(one.name, hashlib.sha256(one.read_bytes()).hexdigest()) for one in found])


def kit() -> bytes:
    kind = [("ILSVRC2012_ID", object), ("WNID", object), ("words", object)]
    rows = [(number, f"n{number:08d}", "a word") for number in range(1, 30)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, dtype=kind)[:, None]}, do_compression=True)
    return buffer.getvalue()


def synsets(file: Path) -> str:
    """Damaged tables raise what `imagenet` turns into `BadInput`."""
    import struct
    import zlib

    try:
        return repr(read_table(file.read_bytes(), "synsets", ("ILSVRC2012_ID", "WNID")))
    except (KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise BadInput(type(error).__name__) from None


def recipe_settings() -> dict[str, object]:
    return RECIPES["digits-sat"]().model_dump(mode="json")


KINDS = {
    "YAML study": Kind(
        "a.yaml", shipped("studies/demo.yaml").read_bytes, lambda file: read_study(file).model_dump_json(), True
    ),
    "YAML recipe": Kind(
        "a.yaml",
        lambda: yaml.safe_dump(recipe_settings()).encode(),
        lambda file: read_recipe(file).model_dump_json(),
        True,
    ),
    "YAML cards": Kind("a.yaml", registry_path().read_bytes, lambda file: repr(sorted(read_cards(file).items())), True),
    "YAML claims": Kind(
        "a.yaml",
        shipped("claims.yaml", "leaderboards").read_bytes,
        lambda file: read_claims(file).model_dump_json(),
        True,
    ),
    "YAML baselines": Kind(
        "a.yaml",
        shipped("baselines.yaml", "leaderboards").read_bytes,
        lambda file: read_baseline(file, "digits-quick").model_dump_json(),
        True,
    ),
    "JSON recipe": Kind(
        "a.json",
        lambda: json.dumps(recipe_settings()).encode(),
        lambda file: read_recipe(file).model_dump_json(),
        True,
    ),
    "npz": Kind("a.npz", lambda: arrays(False), lambda file: load_images(f"npz:{file}").digest),
    "npz, compressed": Kind("a.npz", lambda: arrays(True), lambda file: load_images(f"npz:{file}").digest),
    **{
        f"image, {form}": Kind("a.JPEG", lambda form=form: picture(form), pixels)
        for form in ("JPEG", "PNG", "BMP", "GIF", "WEBP")
    },
    "image, PPM": Kind("a.ppm", lambda: picture("PPM"), pixels),
    "image, gray PNG": Kind("a.png", lambda: picture("PNG", "L"), pixels),
    "tar of images": Kind("a.tar", archive, members),
    "MATLAB table": Kind("meta.mat", kit, synsets),
}
WORDS = [
    *(b"[" * 3_000, b"{" * 3_000, b"- " * 2_000, b"9" * 5_000, b"-1", b"1e999", b".nan", b".inf", b"null", b"~"),
    *(b"&a [*a]", b"!!python/object/apply:os.system ['true']", b"!!binary x", b"<<: *a", b"? [1]", b"2001-13-45"),
    *(b"\0", b"\xff", b"\xe2\x80\xae", b"\x1b[2J", b"../../x", b"''", b"true", b"0x" + b"f" * 3_000, b": ", b"\n"),
]


def mutate(content: bytes, rng: random.Random, is_text: bool) -> bytes:
    """The content with one to four random edits."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice((1, 1, 2, 4, 8, 64, 512)))
        edit = rng.randrange(8 if is_text else 7)
        if edit == 0:
            changed = bytes(byte ^ 1 << rng.randrange(8) for byte in content[at:end])
        elif edit == 1:
            changed = rng.randbytes(end - at)
        elif edit == 2:
            changed = b""
        elif edit == 3:
            changed = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * (end - at)
        elif edit == 4:
            changed = content[at:end] * rng.choice((2, 3, 50))
        elif edit == 5:
            other = rng.randrange(len(content) + 1)
            changed = content[other : other + end - at]
        elif edit == 6:
            return content[:at] or b"x"
        else:
            changed = rng.choice(WORDS)
        content = (content[:at] + changed + content[end:]) or b"x"
    return content


def outcome(kind: Kind, mutant: bytes, whole: str, folder: Path, ran: list[str]) -> tuple[str, str]:
    """What reading the mutant came to, and a word on a fault; `ran` collects the code that it runs."""
    (folder / kind.file).write_bytes(mutant)
    ran.clear()
    started = time.process_time()
    try:
        found, said = ("same" if kind.read(folder / kind.file) == whole else "another value"), ""
    except BadInput as error:
        found, said = "refused", str(error)
        if "\n" in said:
            found = "crash"
    except Exception as error:
        found, said = "crash", repr(error)[:300]
    if ran:
        return "executed", ran[0]
    if time.process_time() - started > SECONDS:
        return "hang", said
    return found, said


def work(name: str, seeds: range, answers: Connection) -> None:
    """Read one mutant for each seed and send what each came to."""
    kind, ran = KINDS[name], list[str]()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the decoders say
    with tempfile.TemporaryDirectory() as scratch:
        content, folder = kind.content(), Path(scratch)
        (folder / kind.file).write_bytes(content)
        whole = kind.read(folder / kind.file)
        sys.addaudithook(lambda event, _: ran.append(event) if event in EXECUTES else None)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for seed in seeds:
            mutant = mutate(content, random.Random(f"{name} {seed}"), kind.is_text)
            found, said = outcome(kind, mutant, whole, folder, ran)
            if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base > GIB:
                answers.send((seed, "memory", said))
                return
            answers.send((seed, found, said))


def batch(name: str, seeds: range) -> list[tuple[int, str, str]]:
    """What the mutants of these seeds came to, in processes that may die."""
    context, found = multiprocessing.get_context("fork"), []
    while seeds:
        answers, theirs = context.Pipe(duplex=False)
        process = context.Process(target=work, args=(name, seeds, theirs))
        process.start()
        theirs.close()
        try:
            while answers.poll(20 * SECONDS):
                found.append(answers.recv())
            process.kill()
            found.append((found[-1][0] + 1 if found else seeds[0], "hang", "nothing for a minute and more"))
        except EOFError:
            process.join()
            done = found[-1][0] if found and found[-1][0] in seeds else seeds[0] - 1
            if process.exitcode:
                found.append((done + 1, "crash", f"exit code {process.exitcode}"))
        answers.close()
        seeds = range(found[-1][0] + 1, seeds[-1] + 1)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="the first mutant of each kind")
    parser.add_argument("--batch", type=int, default=100)
    options = parser.parse_args()
    os.environ["SATBENCH_HOME"] = tempfile.gettempdir()
    counts: dict[str, Counter[str]] = {name: Counter() for name in KINDS}
    faults = []
    end, start = time.monotonic() + 60 * options.minutes, options.seed
    while time.monotonic() < end:
        for name in KINDS:
            if time.monotonic() >= end:
                break
            for seed, found, said in batch(name, range(start, start + options.batch)):
                counts[name][found] += 1
                faults += [f"{found}: {name}, seed {seed}: {said}"] if found in FAULTS else []
        start += options.batch
    print(f"{'file':<20} {'mutants':>8}", *(f"{one:>13}" for one in OUTCOMES))
    for name, counted in [*counts.items(), ("all", sum(counts.values(), Counter()))]:
        print(f"{name:<20} {counted.total():>8}", *(f"{counted[one]:>13}" for one in OUTCOMES))
    for fault in faults[:50]:
        print(fault)
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
