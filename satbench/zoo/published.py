"""The files of weights that other collections publish, each with its hash checked, also where it was there already.

The published hash is in a file's name: torch.hub's files carry the first digits of their SHA-256, and the Hugging Face
Hub's cache keeps a file under the whole of it. Besides, every file's SHA-256 is pinned at its first use.
"""

import os
import re
import sys
from pathlib import Path

from torch import hub

from satbench.core.errors import BadInput
from satbench.zoo import cache
from satbench.zoo.fetch import sha256_file


def at_url(url: str) -> Path:
    """The file at `url` in torch.hub's folder, downloaded where it is not there yet.

    Raises `BadInput` where its SHA-256 is not the published or pinned one, and `OSError` or `RuntimeError` where it
    cannot be downloaded.
    """
    published = digits(url)
    path = Path(hub.get_dir(), "checkpoints", os.path.basename(url))
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), hash_prefix=published or None, progress=sys.stderr.isatty())
    _check(path, path.name, published, url)
    return path


def digits(url: str) -> str:
    """The first digits, 8 or more, of the SHA-256 of the file at `url`, as its name has them; "" where it has none."""
    found = re.search(r"-([0-9a-f]{8,64})\.[a-z]+$", url)
    return found[1] if found else ""


def on_hub(repository: str, *names: str) -> Path:
    """The first of these files that the repository, `OWNER/NAME[@REVISION]`, has; downloaded where it is not cached.

    Raises `BadInput` where its SHA-256 is not the published or pinned one, and `OSError` where none can be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    owner_and_name, _, revision = repository.partition("@")
    for name in names:
        try:
            path = Path(hf_hub_download(owner_and_name, name, revision=revision or None))
        except EntryNotFoundError:
            if name == names[-1]:
                raise
            continue
        break
    check_hub_file(path, name, f"hf:{repository}")
    return path


def check_hub_file(path: Path, name: str, origin: str) -> None:
    """Compare the SHA-256 of a file in the Hub's cache with the one that its blob is named by, and with the pinned one.

    It is pinned where it was not. Raises `BadInput` where it is another.
    """
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    published = blob if re.fullmatch("[0-9a-f]{64}", blob) else ""  # other names are those of git objects
    _check(path, name, published, origin)


def _check(path: Path, name: str, published: str, origin: str) -> None:
    """Compare a file's SHA-256 with the beginning that is published and with the pinned one, or pin it."""
    digest = sha256_file(path)
    if not digest.startswith(published):
        raise BadInput(
            f"{path} has SHA-256 {digest}, but {origin} was published with {published}; delete the file, and the same "
            "command fetches it again"
        )
    if cache.pinned(origin).get(name) != digest:
        cache.pin(origin, {name: digest}, None)
