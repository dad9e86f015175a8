"""What a manifest says about the code and the machine."""

import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

from satbench.core.version import __version__

TOP = Path(__file__).resolve().parents[2]
CODE = ("satbench", "model_zoo.yaml")
PACKAGES = (
    "satbench",
    "torch",
    "torchvision",
    "foolbox",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pyautoattack",
    "scikit-learn",
    "timm",
)


@functools.cache
def _version(name: str) -> str:
    """The version of an installed package, which this process keeps using."""
    if name == "satbench":
        return __version__  # of this code, whatever distribution is installed beside it
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can move a number."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def revision(top: Path = TOP) -> str:
    """Which code measured: the commit of the checkout at `top`, and a digest of the files where some differ from it.

    `0f1e2d...`, or `0f1e2d...+changes:1a2b3c...` where files of the package are changed, deleted or new. Outside a
    checkout it is `files:1a2b3c...`. Only `satbench/` and `model_zoo.yaml` count.
    """
    commit, changed = _checkout(top)
    if commit and not changed:
        return commit
    return f"{f'{commit}+changes' if commit else 'files'}:{_files_digest(top)}"


def _checkout(top: Path) -> tuple[str, bool]:
    """The commit at `top`, "" where git knows none, and whether files of the package differ from it."""
    if not (top / ".git").exists():
        return "", False
    try:
        changes = _git(top, "status", "--porcelain", "--untracked-files=all", "--", *CODE)
        return _git(top, "rev-parse", "HEAD"), bool(changes)
    except (OSError, subprocess.SubprocessError):
        return "", False


def _files_digest(top: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted([*(top / "satbench").rglob("*.py"), *top.glob("model_zoo.yaml")]):
        digest.update(f"{file.relative_to(top).as_posix()}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _git(top: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
