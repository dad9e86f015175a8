"""One kind of file that is read: right files, damage to them, and what a reader makes of the damaged ones."""

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput

SECONDS = 5.0  # of CPU, that reading one file may take
HOSTILE: tuple[Any, ...] = (
    *(-1, 0, 1, 10**7, 10**12, 2**63, 2**64, -(2**70), 1e308, -0.0, float("inf"), float("nan"), True, None),
    *("", "x", "-1", "../../X", "/etc/passwd", "a\nb", "\x1b[2J", "\x00", "é" * 1000, "9" * 5000, "=1+1", "$x$"),
    *([], {}, [[]], {"a": {}}, [1] * 1000),
)  # in place of a value of JSON
EXECUTES = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class"}
_executed: list[str] = []


@dataclass(frozen=True)
class Kind:
    """write: fills an empty folder. files: which are damaged, as patterns. read: a digest of what the folder gives.

    damage: changes a file in place, by default as bytes. covered: whether a seal, checksum or digest covers what the
    files say; of other kinds, which include those sealed anew over the damage, damage may give another value.
    """

    write: Callable[[Path], object]
    files: tuple[str, ...]
    read: Callable[[Path], str]
    damage: Callable[[Path, random.Random], object] = lambda file, source: damage_bytes(file, source)
    covered: bool = True


def watch() -> None:
    """From now on, `outcome` tells whether this process executed what a file said. Cannot be undone."""
    sys.addaudithook(lambda event, _: _executed.append(event) if event in EXECUTES else None)


def expected(kind: Kind, folder: Path) -> str:
    """What the right files give; a kind whose right files are refused, such as pickles with code, gives "refused"."""
    try:
        return kind.read(folder)
    except BadInput:
        return "refused"


def mutate(kind: Kind, folder: Path, source: random.Random) -> None:
    """Damage one file of the folder."""
    kind.damage(source.choice(sorted(file for pattern in kind.files for file in folder.glob(pattern))), source)


def outcome(kind: Kind, folder: Path, right: str) -> tuple[str, str, float]:
    """What reading a damaged file came to, a message, and seconds of CPU.

    Good are "refused" in one line, "right", and "other" (another value) of a kind that nothing covers. Bad are "wrong"
    (another value of the other kinds), "executed", "hang" and "error", which is any exception but `BadInput`.
    """
    _executed.clear()
    started, said = time.process_time(), ""
    try:
        found = "right" if kind.read(folder) == right else "wrong" if kind.covered else "other"
    except BadInput as error:
        found, said = "error" if "\n" in str(error) else "refused", str(error)
    except Exception as error:
        found, said = "error", f"{type(error).__name__}: {error}"[:300]
    seconds = time.process_time() - started
    if _executed:
        return "executed", _executed[0], seconds
    return ("hang" if seconds > SECONDS else found), said, seconds


def damage_bytes(file: Path, source: random.Random) -> None:
    """One to three edits, of which most are one."""
    data = bytearray(file.read_bytes())
    for _ in range(source.choice((1, 1, 1, 2, 3))):
        BYTES[source.randrange(len(BYTES))](data, source)
    file.write_bytes(data)


def _flip(data: bytearray, source: random.Random) -> None:
    if data:
        data[source.randrange(len(data))] ^= 1 << source.randrange(8)


def _put(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at : at + 8] = source.choice((b"\0" * 8, b"\xff" * 8, source.randbytes(source.randint(1, 8))))


def _insert(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    data[at:at] = source.randbytes(source.randint(1, 16))


def _delete(data: bytearray, source: random.Random) -> None:
    at = source.randrange(len(data) + 1)
    del data[at : at + source.randint(1, 16)]


def _cut(data: bytearray, source: random.Random) -> None:
    del data[source.randrange(len(data) + 1) :]


def _swap(data: bytearray, source: random.Random) -> None:
    """Two pieces change places."""
    size = source.choice((1, 4, 8, 64))
    one, other = sorted(source.randrange(max(1, len(data) - size)) for _ in range(2))
    if one + size <= other:
        data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]


def _digit(data: bytearray, source: random.Random) -> None:
    """Another decimal digit, as in the numbers of JSON."""
    places = [place for place, byte in enumerate(data) if 48 <= byte <= 57]
    if places:
        data[source.choice(places)] = source.randrange(48, 58)


BYTES = (_flip, _flip, _put, _insert, _delete, _cut, _swap, _digit)


def damage_json(value: Any, source: random.Random) -> Any:
    """The value with one place replaced, deleted, doubled or nested."""
    if isinstance(value, dict | list) and value and source.random() < 0.8:
        key = source.choice(list(value)) if isinstance(value, dict) else source.randrange(len(value))
        choice = source.random()
        if choice < 0.1:
            del value[key]
        elif choice < 0.15 and isinstance(value, list):
            value.append(value[key])
        elif choice < 0.2 and isinstance(value, dict):
            value[f"{key}x"] = value.pop(key)
        else:
            value[key] = damage_json(value[key], source)
        return value
    if source.random() < 0.05:
        for _ in range(source.choice((10, 200, 5000))):
            value = [value]
        return value
    if isinstance(value, int | float) and source.random() < 0.3:
        return value + source.choice((-1, 1, 1e-9, 100))
    return source.choice(HOSTILE)
