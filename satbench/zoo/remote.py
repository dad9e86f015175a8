"""Registries and weights at URLs. Plain HTTP, which anyone on the way can change, needs a digest."""

import hashlib
import ipaddress
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

from satbench.core.errors import BadInput
from satbench.core.files import atomic_file
from satbench.core.home import home
from satbench.core.offline import is_offline, need_network

MOST_BYTES = 4 << 20  # of a registry
TIMEOUT = (10, 60)  # seconds to connect, and between two bytes
FRAGMENT = "sha256="


def is_url(text: str) -> bool:
    """Whether it is an http or https URL."""
    return urlsplit(text).scheme in ("http", "https")


def need_digest(url: str, digest: str | None, advice: str) -> None:
    """Raise `BadInput` for a plain HTTP URL, but of this machine, from which a file of unknown digest would come."""
    parts = urlsplit(url)
    if digest is None and parts.scheme == "http" and not _is_here(parts.hostname or ""):
        raise BadInput(f"http://{parts.hostname}: plain HTTP is used only for files of known SHA-256; {advice}")


def text_file(url: str) -> tuple[Path, str]:
    """A registry at a URL, downloaded anew unless its digest is given as #sha256=HEX and a copy of that digest is kept.

    Returns the copy in the cache, which is what is read while offline, and the URL itself. Raises `BadInput` where it
    cannot be had, is larger than 4 MiB, or has another digest.
    """
    address, fragment = urldefrag(url)
    wanted = fragment.removeprefix(FRAGMENT).lower() if fragment.startswith(FRAGMENT) else None
    need_digest(address, wanted, f"use https, or give its digest: {address}#{FRAGMENT}HEX")
    kept = home() / "registries" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.yaml"
    is_kept = kept.is_file() and wanted in (None, hashlib.sha256(kept.read_bytes()).hexdigest())
    if is_kept and (wanted is not None or is_offline()):
        return kept, address
    need_network(f"the registry {address} is", "use it once with a network, or leave it out")
    content = _content(address, wanted)
    found = hashlib.sha256(content).hexdigest()
    if wanted not in (None, found):
        raise BadInput(f"the registry {address} has SHA-256 {found}, not {wanted}; ask its author which one is right")
    with atomic_file(kept) as temporary:
        temporary.write_bytes(content)
    return kept, address


def _content(url: str, digest: str | None) -> bytes:
    import requests

    try:
        with requests.get(url, timeout=TIMEOUT, stream=True) as answer:
            answer.raise_for_status()
            for one in (*answer.history, answer):
                need_digest(one.url, digest, f"{url} leads there; give its digest: {url}#{FRAGMENT}HEX")
            content = b""
            for part in answer.iter_content(1 << 16):  # unpacked, where the server sends it packed
                content += part
                if len(content) > MOST_BYTES:
                    break
    except BadInput:
        raise
    except (requests.RequestException, OSError) as error:
        raise BadInput(f"the registry {url} cannot be read ({type(error).__name__}); check the URL") from None
    if len(content) > MOST_BYTES:
        raise BadInput(f"the registry {url} is larger than {MOST_BYTES >> 20} MiB; give a registry file")
    return content


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
