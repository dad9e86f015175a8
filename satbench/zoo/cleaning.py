"""What can be deleted from the cache: files of a network that is not wanted, and what killed commands have left."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.home import home
from satbench.zoo import cache
from satbench.zoo.card import Card, ReleasedCard
from satbench.zoo.local import state
from satbench.zoo.registry import read_cards
from satbench.zoo.released import is_current, leftovers


@dataclass
class Collected:
    """deleted: size in bytes of each file. busy, unknown: models that were left, as others use them or no card does."""

    deleted: dict[Path, int] = field(default_factory=dict)
    busy: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def delete(self, path: Path) -> None:
        """Delete a file and count it."""
        self.deleted[path] = path.stat().st_size
        path.unlink()


def remove(name: str, card: Card) -> int:
    """Delete what the user's own cache holds of a network; returns how many bytes that were.

    Raises `BadInput` for a network whose weights are no download.
    """
    if not isinstance(card, ReleasedCard) and state(name, card) in ("packaged", "file"):
        raise BadInput(f"{name} was not downloaded, its weights are {card.weights}; nothing is deleted")
    folder, converted = cache.folder(name), cache.converted(name)
    with cache.locked(name):
        files = [path for path in (*folder.glob("**/*"), *leftovers(name), converted) if path.is_file()]
        freed = sum(path.stat().st_size for path in set(files))
        if folder.is_dir():
            shutil.rmtree(folder)
        for path in (*leftovers(name), converted):
            path.unlink(missing_ok=True)
    return freed


def collect() -> Collected:
    """Delete refused and partial downloads, temporary files, and conversions that the card does not describe any more.

    A network that another process works on is left as it is, and so are the files of a name that no card has.
    """
    done, cards = Collected(), read_cards()
    folders = {path.name for path in (home() / "checkpoints").glob("*") if path.is_dir()}
    converted = {path.stem for path in (home() / "models").glob("*.safetensors")}
    temporary = {path.name[1:].partition(".safetensors.")[0] for path in (home() / "models").glob(".*.safetensors.*")}
    for name in sorted(folders | converted | temporary):
        with cache.free(name) as is_free:
            if not is_free:
                done.busy.append(name)
                continue
            for path in leftovers(name):
                done.delete(path)
            card, path = cards.get(name), cache.converted(name)
            if isinstance(card, ReleasedCard) and path.is_file() and not is_current(name, card, path):
                done.delete(path)
        if name not in cards:
            done.unknown.append(name)
    for path in home().glob(f".{cache.PINS}.*"):
        done.delete(path)
    return done
