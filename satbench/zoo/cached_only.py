"""While offline, the clients of other collections use their caches alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NoReturn
from urllib.parse import urlsplit

from torch import hub

from satbench.core.offline import is_offline, need_network


@contextmanager
def cached_only() -> Iterator[None]:
    """Until the block ends, and if satbench is offline, torch.hub and the Hugging Face Hub download nothing.

    torchvision and timm fetch by these two, without a switch of their own; a missing file raises `BadInput` or OSError.
    """
    if not is_offline():
        yield
        return
    download, hub.download_url_to_file = hub.download_url_to_file, _refuse
    try:
        if find_spec("huggingface_hub") is None:
            yield
            return
        from huggingface_hub import constants

        before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
        try:
            yield
        finally:
            constants.HF_HUB_OFFLINE = before
    finally:
        hub.download_url_to_file = download


def _refuse(url: str, *_: object, **__: object) -> NoReturn:
    need_network(f"{os.path.basename(urlsplit(url).path)} is", "run the same command once with a network")
    raise AssertionError("only called while offline")
