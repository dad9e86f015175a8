"""What a manifest says about the code and the machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

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


def versions() -> dict[str, str]:
    """Versions of Python and of every package that can move a number."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def revision() -> str | None:
    """The commit this code was checked out at, with "+changes" when files differ from it; None outside a checkout."""
    top = Path(__file__).resolve().parents[2]
    if not (top / ".git").exists():
        return None
    try:
        commit = _git(top, "rev-parse", "HEAD")
        changed = _git(top, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(top: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(top), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
