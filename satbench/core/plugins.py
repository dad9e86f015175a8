"""Code of the user's own: `package.module:callable` wherever an entry of a table may stand, with its arguments.

A name is `NAME` of a table or `package.module:callable`, and both may be followed by `:key=value,key=value`. Command
lines, recipes, study files and calls from Python decide what is imported. A file that training or evaluation wrote,
such as weights, does not, see `check_allowed`.
"""

import importlib.util
import os
import re
import traceback
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from satbench.core.errors import FAULTS, BadInput, reason
from satbench.core.lookup import check_keywords, imported, keywords, literal, pick

PLUGINS = "SATBENCH_PLUGINS"  # packages or modules that files may name, with commas between


@dataclass(frozen=True)
class Socket:
    """What a callable of one's own has to be.

    command, option: where it is named. signature: how it is called, and what it returns. words: what the arguments are.
    """

    command: str
    option: str
    signature: str
    words: str

    @property
    def wanted(self) -> str:
        return f"give {self.signature}"


SOCKETS: dict[str, Socket] = {
    "recipe": Socket(
        "satbench train",
        "recipe",
        "build(**params) -> satbench.training.TrainConfig",
        "a whole training; see `satbench recipes NAME` for the settings",
    ),
    "model": Socket(
        "satbench train",
        "--model",
        "build(activation, *, channels, image_size, num_classes, **params) -> torch.nn.Module",
        "activation() gives a fresh module for one site; the network maps normalised images (N, channels, image_size, "
        "image_size) to logits (N, num_classes)",
    ),
    "activation": Socket(
        "satbench train",
        "--activation",
        "build(**params) -> torch.nn.Module",
        "called once for every site of a network; params are numbers",
    ),
    "method": Socket(
        "satbench train",
        "--method",
        "build(**params) -> satbench.methods.Method",
        "usually a frozen dataclass below Method with perturb(model, step), the images to train on, loss(model, x_adv, "
        "step), a scalar, and passes, of an image and update",
    ),
    "augmentation": Socket(
        "satbench train",
        "--set augment=",
        "augment(x, numbers, **params) -> x",
        "x: float32 (n, C, H, W) in [0, 1], and so is the result; numbers: float64 (n, 64) in [0, 1), on the CPU, the "
        "only random numbers",
    ),
    "evaluator": Socket(
        "satbench train",
        "--set measure.evaluators=clean+",
        "build(**params) -> satbench.training.evaluators.Evaluator",
        "a frozen dataclass below Evaluator with names, of its figures, and values(look), an array with a value for "
        "each of look.images by each name",
    ),
    "data set": Socket(
        "satbench train, satbench eval",
        "--dataset",
        "load(split, **params) -> (x, y), a torch Dataset or DataLoader, or satbench.data.Images",
        "split: 'train' or 'test'; x: uint8, or float in [0, 1], (N, C, H, W) or (N, H, W, C); y: integers from 0; the "
        "validation split is cut from 'train'",
    ),
    "network": Socket(
        "satbench eval",
        "--model",
        "build(**params) -> torch.nn.Module",
        "maps images (N, C, H, W) in [0, 1] to logits; activation=NAME gives a callable that makes fresh modules",
    ),
    "attack": Socket(
        "satbench eval",
        "--attack",
        "attack(model, x, y, threat, randomness, **params) -> x_adv, or build(**params) -> attack",
        "x: float32 (n, C, H, W) in [0, 1]; y: int64 (n,); threat: with norm and eps; randomness: generators",
    ),
}


def spelled(text: str, known: Container[str] = ()) -> tuple[str, str]:
    """The name, `NAME` or `package.module:callable`, and what follows it: `key=value,key=value` or nothing.

    What begins with one of the `known` names is that, whatever follows.
    """
    name, _, tail = text.partition(":")
    if name not in known and re.match(r"[^=,:]+(?:$|:)", tail):
        attribute, _, tail = tail.partition(":")
        name = f"{name}:{attribute}"
    return name, tail


def is_reference(name: str) -> bool:
    """Whether a name, as `spelled` gives it, is one of `package.module:callable`."""
    return ":" in name


def arguments(build: Callable[..., Any], tail: str, what: str, placed: int = 0) -> dict[str, Any]:
    """The keywords of `key=value,key=value`; whole numbers, decimals, true, false and none are read as such.

    Raises `BadInput`, which calls the callable `what`, for a part that is not key=value and for a keyword that `build`
    does not take beside `placed` positional arguments.
    """
    given = {key: literal(text) for key, text in keywords(tail, what, "package.module:callable:key=value").items()}
    check_keywords(build, what, placed, given)
    return given


def is_findable(reference: str) -> bool:
    """Whether the top-level module or package of a reference is installed or lies in the current folder."""
    top = reference.partition(":")[0].partition(".")[0]
    here = Path.cwd() / top
    if here.is_dir() or here.with_suffix(".py").is_file():
        return True
    return top.isidentifier() and importlib.util.find_spec(top) is not None


@contextmanager
def own(kind: str, reference: str) -> Iterator[Callable[..., Any]]:
    """The callable of the user's own for a block that may call it; errors of both become `BadInput`."""
    socket = SOCKETS[kind]
    with imported(socket.option, reference, socket.wanted) as found:
        allow([reference])
        yield found


@contextmanager
def running(kind: str, name: str) -> Iterator[None]:
    """A block that runs code of the user's own; what it raises becomes a `BadInput` that names it."""
    try:
        yield
    except BadInput:
        raise
    except (*FAULTS, ImportError, NameError, OSError) as error:
        raise BadInput(f"{kind} {name}: {reason(error)}; {SOCKETS[kind].wanted}") from error


def raised_in(error: BaseException) -> str | None:
    """The code of the user's own that ran when the error was raised, and how to fix it; None where none ran.

    It is the last such function of the traceback, `package.module:Class.method`, with its line.
    """
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(frame, line) for frame, line in frames if is_allowed(frame.f_globals.get("__name__", ""))]
    if not own:
        return None
    frame, line = own[-1]
    module, function = frame.f_globals["__name__"], frame.f_code.co_qualname
    return f"{module}:{function}, line {line}: {reason(error)}; correct {module}"


def make(
    table: Mapping[str, Callable[..., Any]], name: str, kind: str, result: type, /, *args: Any, **params: Any
) -> Any:
    """What the named factory makes of the arguments: an entry of the table, or a callable of the user's own.

    Raises `BadInput` for an unknown name or parameter, for what a callable of the user's own raises, and where that
    returns no `result`.
    """
    if name in table or not is_reference(name):
        return pick(table, name, kind, *args, **params)
    with own(kind, name) as build:
        try:
            check_keywords(build, f"{kind} {name!r}", len(args), params)
        except BadInput as error:
            raise BadInput(f"{error}; {SOCKETS[kind].wanted}") from None
        found = build(*args, **params)
    if not isinstance(found, result):
        raise BadInput(f"{kind} {name} returned a {type(found).__name__}; {SOCKETS[kind].wanted}")
    return found


def allow(references: Iterable[str]) -> None:
    """Let files name the modules of these references too, in this process and in those that it starts.

    Everything that a user names is allowed, so that a run can continue, and its network be measured, in one process.
    """
    modules = {reference.partition(":")[0] for reference in references}
    if not modules <= {*allowed()}:
        os.environ[PLUGINS] = ",".join(sorted({*allowed(), *modules}))


def allowed() -> list[str]:
    """The modules and packages that files may name."""
    return list(filter(None, map(str.strip, os.environ.get(PLUGINS, "").split(","))))


def is_allowed(reference: str) -> bool:
    """Whether a file may name it: SATBENCH_PLUGINS holds its module or a package of it."""
    module = reference.partition(":")[0]
    return any(module == one or module.startswith(f"{one}.") for one in allowed())


def check_allowed(name: str, source: object) -> None:
    """Raise `BadInput` where a name that `source`, a file, holds would import code that the user did not name.

    Without this, a file of weights could call any function with any arguments.
    """
    reference, _ = spelled(name)
    if is_reference(reference) and not is_allowed(reference):
        raise BadInput(
            f"{source} names the code {reference}, which is not satbench's; if you trust it, set "
            f"{PLUGINS}={reference.partition(':')[0]}"
        )
