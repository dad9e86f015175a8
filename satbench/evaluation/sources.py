"""Digest of the source files that a model or an attack of the user's own is made of."""

import ast
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from torch import nn

from satbench.models.precision import Float32Ends
from satbench.zoo import Loaded

OWN = __name__.partition(".")[0]
INSTALLED = ("site-packages", "dist-packages")
STANDARD = Path(sysconfig.get_path("stdlib"))
PLAIN = (bool, int, float, str, tuple, type(None))
ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")  # in a repr: another one in every process


def identified(loaded: Loaded) -> Loaded:
    """The network with a digest of what the weights of somebody's own network do not say, `ModelInfo.code`.

    That is the modules as they print, their plain attributes, such as the strength of a defence, and the source files
    of their classes. Networks that satbench builds are identified by their weights.
    """
    if loaded.module is None and _root(loaded.model) == OWN and not isinstance(loaded.model, Float32Ends):
        return loaded
    said = [repr(loaded.model)]
    for path, module in loaded.model.named_modules():
        said.append(f"{path} {plain_attributes(module)}")
    digest = hashlib.sha256(ADDRESS.sub("", "\n".join(said)).encode())
    names = {type(module).__module__ for module in loaded.model.modules() if _root(module) not in (OWN, "torch")}
    for name in sorted(names | ({loaded.module} if loaded.module else set())):
        digest.update(source_digest(name) or b"")
    return loaded.with_info(code=digest.hexdigest()[:16])


def plain_attributes(thing: object) -> str:
    """The class and the public attributes that are numbers, strings or tuples, but for a module's `training`."""
    held = {name: value for name, value in getattr(thing, "__dict__", {}).items() if isinstance(value, PLAIN)}
    shown = {name: value for name, value in held.items() if name[0] != "_" and name != "training"}
    return f"{type(thing).__qualname__} {sorted(shown.items())}"


def _root(module: nn.Module) -> str:
    return type(module).__module__.partition(".")[0]


def source_digest(module: str) -> bytes | None:
    """Hash of the file of an imported module and of all files it imports; None where it has no file.

    Imports are followed, also those inside functions, as long as they lead to files below the folder that holds the
    top-level module or package. satbench, installed packages and the standard library are not followed. Files are named
    relative to that folder, so the same code elsewhere has the same digest. A module that is imported by a name made
    at run time is not seen.
    """
    start = _location(module)
    if start is None:
        return None
    file, root = start
    files = {file} if _is_installed(file) else _reachable(file, root)
    named = {one.relative_to(root).as_posix(): one.read_bytes() for one in files}
    digest = hashlib.sha256()
    for name in sorted(named):
        digest.update(f"{name} {hashlib.sha256(named[name]).hexdigest()}\n".encode())
    return digest.digest()


def _location(name: str) -> tuple[Path, Path] | None:
    """The file of a module, and the folder from which it is imported."""
    module = sys.modules.get(name)
    named = getattr(module, "__file__", None)
    if not named or not Path(named).is_file():
        return None
    file = Path(named).absolute()
    spec = getattr(module, "__spec__", None)  # None for a script, which is __main__
    depth = spec.name.count(".") + (file.name == "__init__.py") if spec else 0
    return file, file.parents[depth]


def _reachable(file: Path, root: Path) -> set[Path]:
    waiting, found = [file, *_files_of(root, file.relative_to(root).with_suffix("").parts)], set()
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += (each for parts in _imports(one, root) for each in _files_of(root, parts))
    return found


def _files_of(root: Path, parts: tuple[str, ...]) -> Iterator[Path]:
    """The files below `root` that an import of these name parts executes; the last part may be an attribute."""
    if parts[:1] == (OWN,):
        return
    for length in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:length])
        for file in (place / "__init__.py", place.with_suffix(".py")):
            if file.is_file() and not _is_installed(file):
                yield file


def _imports(file: Path, root: Path) -> Iterator[tuple[str, ...]]:
    """The name parts of all modules, or attributes of modules, that a file imports."""
    package = file.relative_to(root).parent.parts
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # of another Python, say, behind a condition
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def _is_installed(file: Path) -> bool:
    return STANDARD in file.parents or any(part in INSTALLED for part in file.parts)
