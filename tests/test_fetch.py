"""Released checkpoints on their way into the cache, from real servers on this machine, and the digests kept of them."""

import gzip
import hashlib
import io
import json
import multiprocessing
import os
import random
import shlex
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from satbench.core.errors import BadInput
from satbench.core.progress import silent
from satbench.zoo import cache
from satbench.zoo import fetch as room
from satbench.zoo.fetch import fetch, sha256_file
from satbench.zoo.published import at_url
from satbench.zoo.remote import text_file

pytestmark = pytest.mark.usefixtures("home")

NAME, RELEASE = "toy-silu", "Toy-silu"
INDEX, DATA = f"{RELEASE}.index", f"{RELEASE}.data-00000-of-00001"
SOURCES = {INDEX: "I" * 33, DATA: "D" * 33}
INDEX_BYTES = b"keys and handles" * 20 + struct.pack("<Q", 0xDB4775248B80FB57)  # table magic of LevelDB's format
DATA_BYTES = random.Random(0).randbytes(3 << 20)
CONTENT = {INDEX: INDEX_BYTES, DATA: DATA_BYTES}
PAGE = b"<!DOCTYPE html><html><body>Sign in to this network</body></html>"
WAIT = 60.0


@dataclass
class Reply:
    """What a path of the site gives. announced: its Content-Length where that is a lie; encoding: of the body."""

    body: bytes
    kind: str = "application/octet-stream"
    status: int = 200
    announced: int | None = None
    attached: bool = False
    encoding: str = ""


@dataclass
class Site:
    """A server on this machine. asked: path and first byte of every request.

    For files over 1 MiB, cuts: after how many bytes each of the next answers hangs up; hold_at: where answers from the
    first byte on stop until `held` is set. ranges: whether it knows them.
    """

    url: str
    replies: dict[str, Reply] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    held: threading.Event = field(default_factory=threading.Event)
    hold_at: int = 0


class Handler(BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        site = self.site
        reply = site.replies.get(self.path, Reply(b"nothing here", "text/plain", 404))
        start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in self.headers else 0
        site.asked.append((self.path, start))
        start = start if site.ranges else 0
        body, whole = reply.body[start:], len(reply.body)
        if start and not body:
            self.send_error(416)
            return
        self.send_response(206 if start else reply.status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        if reply.attached:
            self.send_header("Content-Disposition", 'attachment; filename="whatever"')
        if reply.encoding:
            self.send_header("Content-Encoding", reply.encoding)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(body) if reply.announced is None else reply.announced))
        self.end_headers()
        if site.cuts and whole > 1 << 20:
            body = body[: site.cuts.pop(0)]
        try:
            if site.hold_at and not start and whole > 1 << 20:
                self.wfile.write(body[: site.hold_at])
                site.held.wait(WAIT)
                body = body[site.hold_at :]
            self.wfile.write(body)
        except ConnectionError:
            pass

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[Site]:
    handler = type("OneSite", (Handler,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    handler.site = Site(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield handler.site
    handler.site.held.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mirror(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site as a mirror that has the whole release."""
    site.replies |= {f"/{RELEASE}/{file}": Reply(content) for file, content in CONTENT.items()}
    monkeypatch.setenv("SATBENCH_MIRROR", site.url)
    return site


@pytest.fixture
def drive(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site in the place of Google Drive, for the true client: a small file at once, a large one behind a page."""
    original = requests.Session.get

    def get(session: requests.Session, url: str, **options: object) -> requests.Response:
        for host in ("https://drive.google.com", "https://drive.usercontent.google.com"):
            url = site.url + url.removeprefix(host) if url.startswith(host) else url
        assert url.startswith("http://127.0.0.1"), f"{url} leaves this machine"
        return original(session, url, **options)

    monkeypatch.setattr(requests.Session, "get", get)
    site.replies |= {
        f"/uc?id={SOURCES[INDEX]}": Reply(INDEX_BYTES, attached=True),
        f"/uc?id={SOURCES[DATA]}": Reply(warning_page(SOURCES[DATA]), "text/html; charset=utf-8"),
        f"/download?id={SOURCES[DATA]}&confirm=t": Reply(DATA_BYTES, attached=True),
    }
    return site


def warning_page(source: str) -> bytes:
    fields = "".join(f'<input type="hidden" name="{k}" value="{v}">' for k, v in (("id", source), ("confirm", "t")))
    action = "https://drive.usercontent.google.com/download"
    return f'<!DOCTYPE html><html><form id="download-form" action="{action}">{fields}</form></html>'.encode()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def there() -> dict[str, bytes]:
    """Every file of the toy's folder."""
    return {path.name: path.read_bytes() for path in cache.folder(NAME).iterdir()}


def refusal(sources: dict[str, str] = SOURCES) -> str:
    with pytest.raises(BadInput) as caught:
        fetch(NAME, RELEASE, sources, silent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_way_by_hand(message: str, home: Path, *files: str) -> None:
    folder = home / "checkpoints" / NAME
    for file, source in SOURCES.items():
        assert (f"{file} from https://drive.google.com/uc?id={source}" in message) == (file in files)
    assert f" in {folder} and run `satbench models import {NAME} {folder / RELEASE}`" in message


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in {WAIT} s"
        time.sleep(0.01)


# the cache


def test_the_cache_is_where_the_variable_says(home: Path) -> None:
    assert cache.home() == home
    assert cache.folder("a") == home / "checkpoints" / "a"
    assert cache.converted("a") == home / "models" / "a.safetensors"
    assert not home.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep caches elsewhere")
@pytest.mark.parametrize("value", [None, ""])
def test_the_cache_is_the_users_otherwise(value: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("SATBENCH_HOME")
    if value is not None:
        monkeypatch.setenv("SATBENCH_HOME", value)
    assert cache.home() == tmp_path / "satbench"


def test_a_relative_cache_and_one_under_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SATBENCH_HOME", "here")
    assert cache.home() == tmp_path / "here"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SATBENCH_HOME", "~/there")
    assert cache.home() == tmp_path / "there"


def test_a_lock_nests_and_keeps_others_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stderr := io.StringIO())
    order: list[str] = []

    def other() -> None:
        with cache.locked(NAME):
            order.append("other")

    with cache.locked(NAME), cache.locked(NAME):
        thread = threading.Thread(target=other)
        thread.start()
        with cache.locked("another"):
            wait_for(stderr.getvalue, "notice")
        order.append("first")
    thread.join()
    assert order == ["first", "other"]
    assert stderr.getvalue() == f"satbench: another process works on {NAME}; waiting for it\n"


# digests

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # the example of FIPS 180-4
    assert sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digests_are_pinned_at_the_first_use_and_held_after_it(home: Path) -> None:
    assert cache.pinned(NAME) == {}
    assert cache.pin(NAME, {INDEX: A, DATA: B}, None)
    assert cache.pin("alpha", {"x": C}, None)
    assert not cache.pin(NAME, {DATA: B, INDEX: A}, None)
    assert cache.pinned(NAME) == {INDEX: A, DATA: B}
    text = (home / "zoo.lock").read_text()
    assert text == json.dumps({"alpha": {"x": C}, NAME: {DATA: B, INDEX: A}}, indent=2) + "\n"
    with pytest.raises(BadInput) as caught:
        cache.pin(NAME, {INDEX: A, DATA: "d" * 64, "more": A}, None)
    message = str(caught.value)
    assert (
        f"{NAME}: {DATA} has SHA-256 {'d' * 64}, {home / 'zoo.lock'} has pinned {B}; give or fetch the other file"
        in message
    )
    assert (home / "zoo.lock").read_text() == text


def test_bytes_that_are_pinned_for_one_model_are_no_other_models(home: Path) -> None:
    cache.pin(NAME, {INDEX: A, DATA: B}, None)
    with pytest.raises(BadInput, match=f"alpha: x has the SHA-256 that is pinned for {NAME}"):
        cache.pin("alpha", {"x": B}, None)
    assert set(json.loads((home / "zoo.lock").read_text())) == {NAME}


def test_a_file_not_seen_before_is_pinned_beside_the_others() -> None:
    cache.pin(NAME, {INDEX: A}, None)
    assert cache.pin(NAME, {INDEX: A, DATA: B}, None)
    assert cache.pinned(NAME) == {INDEX: A, DATA: B}


def test_what_the_card_states_goes_before_the_pins(home: Path) -> None:
    stated = {INDEX: A, DATA: B}
    assert not cache.pin(NAME, stated, stated)
    assert not (home / "zoo.lock").exists()
    cache.pin(NAME, {INDEX: C, DATA: C}, None)
    assert not cache.pin(NAME, stated, stated)
    with pytest.raises(BadInput, match=f"{INDEX} has SHA-256 {C}, its card says {A}"):
        cache.pin(NAME, {INDEX: C, DATA: C}, stated)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": "b"}', b'{"a": {"b": 1}}', b'{"a": {"b": "\xff"}}'])
def test_damaged_pins_are_named_and_kept(content: bytes, home: Path) -> None:
    home.mkdir()
    (home / "zoo.lock").write_bytes(content)
    for use in (lambda: cache.pinned(NAME), lambda: cache.pin(NAME, {INDEX: A}, None)):
        with pytest.raises(BadInput, match=r"zoo\.lock.*; restore the SHA-256"):
            use()
    assert (home / "zoo.lock").read_bytes() == content


# mirrors


def test_a_mirror_gives_the_whole_release(mirror: Site) -> None:
    told: list[tuple[int, int, str]] = []
    prefix = fetch(NAME, RELEASE, SOURCES, lambda *report: told.append(report))
    assert prefix == cache.folder(NAME) / RELEASE
    assert there() == CONTENT
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in cache.folder(NAME).iterdir())
    total = len(INDEX_BYTES) + len(DATA_BYTES)
    assert told[0] == (len(INDEX_BYTES), len(INDEX_BYTES), INDEX)
    assert told[-1] == (total, total, DATA)
    assert all(report[1:] == (total, DATA) for report in told[1:])
    assert [report[0] for report in told] == sorted({report[0] for report in told})
    asked = len(mirror.asked)
    fetch(NAME, RELEASE, SOURCES, silent)
    assert len(mirror.asked) == asked == 2


def test_files_already_there_are_kept(mirror: Site) -> None:
    cache.folder(NAME).mkdir(parents=True)
    (cache.folder(NAME) / INDEX).write_bytes(b"from somewhere else")
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == {INDEX: b"from somewhere else", DATA: DATA_BYTES}


@pytest.mark.parametrize("kind", ["folder", "file URL", "http", "http with a query"])
def test_names_and_folders_may_hold_anything(
    kind: str, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, folder = "Tüy net #1 100%?", tmp_path / "a mirror%20#"
    sources = {f"{release}.index": "I" * 33}
    (folder / release).mkdir(parents=True)
    (folder / release / f"{release}.index").write_bytes(INDEX_BYTES)
    encoded = "T%C3%BCy%20net%20%231%20100%25%3F"
    query = "?key=a%2Fb" if kind == "http with a query" else ""
    site.replies[f"/base/{encoded}/{encoded}.index{query}"] = Reply(INDEX_BYTES)
    given = {
        "folder": str(folder),
        "file URL": folder.as_uri(),
        "http": f"{site.url}/base/",
        "http with a query": f"{site.url}/base{query}",
    }
    monkeypatch.setenv("SATBENCH_MIRROR", given[kind])
    prefix = fetch(NAME, release, sources, silent)
    assert prefix.name == release
    assert there() == {f"{release}.index": INDEX_BYTES}


def test_a_folder_mirror_reports_its_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / RELEASE).mkdir()
    for file, content in CONTENT.items():
        (tmp_path / RELEASE / file).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SATBENCH_MIRROR", ".")
    told: list[tuple[int, int, str]] = []
    fetch(NAME, RELEASE, SOURCES, lambda *report: told.append(report))
    total = len(INDEX_BYTES) + len(DATA_BYTES)
    assert told[-1] == (total, total, DATA)
    assert len(told) > 3
    assert there() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_a_mirror_lacks_comes_from_drive_and_is_said(
    status: int, mirror: Site, drive: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror.replies[f"/{RELEASE}/{DATA}"] = Reply(PAGE, "text/html", status)
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    line = f"satbench: {RELEASE}/{DATA}: SATBENCH_MIRROR lacks it (HTTP {status}); asking Google Drive\n"
    assert capsys.readouterr().err == line


def test_what_a_folder_lacks_comes_from_drive_and_is_said(
    drive: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", str(tmp_path))
    fetch(NAME, RELEASE, {INDEX: SOURCES[INDEX]}, silent)
    assert there() == {INDEX: INDEX_BYTES}
    line = f"satbench: {RELEASE}/{INDEX}: SATBENCH_MIRROR lacks it; asking Google Drive\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "mirror", ["/nowhere/at/all", "ftp://host/x", "file://host/tmp", "file:///nowhere", "http://[x"]
)
def test_an_impossible_mirror_is_refused(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SATBENCH_MIRROR", mirror)
    assert f"SATBENCH_MIRROR={mirror}: expected a folder that exists" in refusal()


def test_a_broken_mirror_is_no_missing_file(mirror: Site, drive: Site, home: Path) -> None:
    mirror.replies[f"/{RELEASE}/{DATA}"] = Reply(b"", status=503)
    message = refusal()
    assert f"{NAME}: {DATA} could not be fetched, SATBENCH_MIRROR answers HTTP 503;" in message
    assert_way_by_hand(message, home, DATA)
    assert there() == {INDEX: INDEX_BYTES}
    assert not [path for path, _ in drive.asked if path.startswith("/uc")]


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}/", "http://user:secret@127.0.0.1:{port}/?key=secret"])
def test_an_unreachable_mirror_is_named_without_its_secrets_and_passed_over(
    url: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(room.OPTIONS, "retries", 1)
    monkeypatch.setenv("SATBENCH_MIRROR", url.format(port=closed_port()))
    message = refusal()
    told = capsys.readouterr().err
    assert f"{INDEX}: SATBENCH_MIRROR did not deliver it (ConnectionError); asking Google Drive" in told
    assert "Google Drive did not deliver it (ConnectionError)" in message
    assert "secret" not in message + told
    assert_way_by_hand(message, home, INDEX, DATA)


# interrupted


def ranges(site: Site, path: str) -> list[int]:
    return [start for asked, start in site.asked if asked == path]


def test_a_dropped_connection_is_taken_up_where_it_broke(mirror: Site) -> None:
    mirror.cuts = [5 << 18]
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    first, second = ranges(mirror, f"/{RELEASE}/{DATA}")
    assert (first, second) == (0, 1 << 20)  # bytes arrive in pieces of half a MiB; a broken piece comes again


def test_a_connection_that_always_drops_ends_and_keeps_what_came(
    mirror: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(room.OPTIONS, "retries", 0)
    mirror.cuts = [5 << 18]
    message = refusal()
    assert "SATBENCH_MIRROR did not deliver it" in message
    assert_way_by_hand(message, home, DATA)
    assert DATA not in there()
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    assert ranges(mirror, f"/{RELEASE}/{DATA}")[-1] == 1 << 20


def interrupt_at(bytes_done: int) -> None:
    def report(done: int, total: int, what: str) -> None:
        if what == DATA and done - len(INDEX_BYTES) >= bytes_done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(NAME, RELEASE, SOURCES, report)
    assert DATA not in there()


def test_an_interrupted_fetch_goes_on_at_the_next_call(mirror: Site) -> None:
    interrupt_at(1 << 20)
    told: list[int] = []
    fetch(NAME, RELEASE, SOURCES, lambda done, total, what: told.append(done))
    assert there() == CONTENT
    assert min(told) > 1 << 20
    assert ranges(mirror, f"/{RELEASE}/{DATA}")[-1] == 1 << 20


def test_a_part_outlives_a_network_that_gives_nothing(mirror: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_at(1 << 20)
    monkeypatch.setitem(room.OPTIONS, "retries", 0)
    mirror.cuts = [len(DATA_BYTES), 1]  # the second answer is the one that goes on
    assert "did not deliver it" in refusal()
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    assert ranges(mirror, f"/{RELEASE}/{DATA}") == [0, 0, 1 << 20, 0, 1 << 20]


@pytest.mark.parametrize("ranges_served", [True, False])
def test_a_part_that_cannot_go_on_is_fetched_anew(ranges_served: bool, mirror: Site) -> None:
    interrupt_at(len(DATA_BYTES) if ranges_served else 1 << 20)  # all bytes came, or the server knows no ranges
    mirror.ranges = ranges_served
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT


def test_a_part_from_one_place_is_not_joined_to_bytes_of_another(
    mirror: Site, drive: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.replies[f"/{RELEASE}/{DATA}"] = Reply(bytes(len(DATA_BYTES)))
    interrupt_at(1 << 20)
    monkeypatch.delenv("SATBENCH_MIRROR")
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT


@pytest.mark.parametrize("file", CONTENT)
def test_a_body_shorter_than_announced_is_no_file(
    file: str, mirror: Site, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(room.OPTIONS, "retries", 0)
    mirror.replies[f"/{RELEASE}/{file}"] = Reply(CONTENT[file], announced=len(CONTENT[file]) + 1)
    assert "did not deliver it" in refusal()
    assert file not in there()


def test_a_full_disk_leaves_nothing_under_the_final_name(mirror: Site) -> None:
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))  # stands for the disk: a larger file cannot be
    try:
        with pytest.raises(OSError, match="large"):
            fetch(NAME, RELEASE, SOURCES, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert DATA not in there()
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT


def test_a_folder_on_a_full_disk_leaves_nothing_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    (tmp_path / RELEASE).mkdir()
    (tmp_path / RELEASE / DATA).write_bytes(DATA_BYTES)
    monkeypatch.setenv("SATBENCH_MIRROR", str(tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            fetch(NAME, RELEASE, {DATA: SOURCES[DATA]}, silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert there() == {}


# what is no checkpoint


@pytest.mark.parametrize("place", ["http", "folder"])
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        (DATA, PAGE, "sent a web page and not a checkpoint"),
        (INDEX, PAGE, "sent a web page and not a checkpoint"),
        (DATA, b"\xef\xbb\xbf\r\n  <HTML lang=en><p>quota", "sent a web page and not a checkpoint"),
        (DATA, b'<?xml version="1.0"?><Error/>', "sent a web page and not a checkpoint"),
        (INDEX, INDEX_BYTES[:-1], "sent something that is no index of a TensorFlow checkpoint"),
        (INDEX, b"short", "sent something that is no index of a TensorFlow checkpoint"),
        (DATA, b"", "sent an empty file"),
        (INDEX, b"", "sent an empty file"),
    ],
)
def test_what_is_no_checkpoint_is_thrown_away(
    place: str,
    file: str,
    content: bytes,
    reason: str,
    mirror: Site,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror.replies[f"/{RELEASE}/{file}"] = Reply(content)
    if place == "folder":
        (tmp_path / RELEASE).mkdir()
        (tmp_path / RELEASE / INDEX).write_bytes(INDEX_BYTES)
        (tmp_path / RELEASE / file).write_bytes(content)
        monkeypatch.setenv("SATBENCH_MIRROR", str(tmp_path))
    message = refusal()
    assert f"{NAME}: {file} could not be fetched, SATBENCH_MIRROR {reason};" in message
    assert_way_by_hand(message, home, *([DATA] if file == DATA else [INDEX, DATA]))
    assert there() == ({INDEX: INDEX_BYTES} if file == DATA else {})


# Google Drive


def test_drive_gives_small_files_and_large_ones_behind_a_page(drive: Site) -> None:
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    large = f"/download?id={SOURCES[DATA]}&confirm=t"
    assert [path for path, _ in drive.asked] == [*(f"/uc?id={source}" for source in SOURCES.values()), large]


def test_a_fetch_from_drive_goes_on_behind_the_page(drive: Site) -> None:
    interrupt_at(1 << 20)
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    assert ranges(drive, f"/download?id={SOURCES[DATA]}&confirm=t")[-1] == 1 << 20


@pytest.mark.parametrize(
    "reply",
    [
        Reply(b'<p class="uc-error-subcaption">Too many users have viewed this file</p>', "text/html"),
        Reply(PAGE, "text/html"),
        Reply(b"<html>no such file</html>", "text/html", 404),
    ],
    ids=["quota", "sign-in", "gone"],
)
def test_a_page_of_drive_is_no_file(reply: Reply, drive: Site, home: Path) -> None:
    drive.replies[f"/uc?id={SOURCES[DATA]}"] = reply
    message = refusal()
    assert f"{DATA} could not be fetched, Google Drive shows a web page instead (download quota used up" in message
    assert_way_by_hand(message, home, DATA)
    assert there() == {INDEX: INDEX_BYTES}


def test_pages_that_lead_to_themselves_end(drive: Site, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.3)
    page = Reply(warning_page(SOURCES[INDEX]), "text/html")
    drive.replies |= {f"/uc?id={SOURCES[INDEX]}": page, f"/download?id={SOURCES[INDEX]}&confirm=t": page}
    message = refusal()
    assert "Google Drive sent no byte of it within 0.3 s" in message
    assert_way_by_hand(message, home, INDEX, DATA)
    assert there() == {}


def test_patience_is_for_the_first_byte_only(mirror: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE", 0.3)
    mirror.hold_at = 1 << 20
    threading.Timer(0.6, mirror.held.set).start()
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT


def test_a_server_that_falls_silent_is_given_up(mirror: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(room.OPTIONS, "timeout", (0.3, 0.3))
    monkeypatch.setitem(room.OPTIONS, "retries", 0)
    mirror.hold_at = 1 << 20
    assert "SATBENCH_MIRROR did not deliver it" in refusal()
    assert DATA not in there()


def test_without_a_network_the_way_by_hand_is_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
    message = refusal()
    assert f"{NAME}: {INDEX} could not be fetched, Google Drive did not deliver it (ProxyError);" in message
    assert_way_by_hand(message, home, INDEX, DATA)
    monkeypatch.setenv("SATBENCH_HOME", str(tmp_path / "my cache"))
    command = refusal().rpartition("`")[0].rpartition("`")[2]
    prefix = tmp_path / "my cache" / "checkpoints" / NAME / RELEASE
    assert shlex.split(command) == ["satbench", "models", "import", NAME, str(prefix)]


# several processes


@pytest.fixture(scope="module")
def processes() -> multiprocessing.context.ForkServerContext:
    """Processes of their own that need not import everything again."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("no fork server on this system")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["satbench.zoo.fetch"])
    return context


def fetch_and_pin(home: Path, mirror: str, number: int) -> None:
    """What one process does: fetches the same model as the others, then pins fifty names of its own."""
    os.environ |= {"SATBENCH_HOME": str(home), "SATBENCH_MIRROR": mirror}
    with (home / f"stderr {number}").open("w", buffering=1) as sys.stderr:
        fetch(NAME, RELEASE, SOURCES, silent)
        for i in range(50):
            cache.pin(f"{number}-{i}", {INDEX: f"{number:02d}{i:062d}"}, None)
        cache.pin(NAME, {file: sha256_file(cache.folder(NAME) / file) for file in SOURCES}, None)


@pytest.mark.left_out
def test_two_processes_download_once_and_lose_no_pin(
    mirror: Site, home: Path, processes: multiprocessing.context.ForkServerContext
) -> None:
    home.mkdir()
    mirror.hold_at = 1 << 20
    both = [processes.Process(target=fetch_and_pin, args=(home, mirror.url, number)) for number in (0, 1)]
    for process in both:
        process.start()
    stderr = [home / f"stderr {number}" for number in (0, 1)]
    try:
        wait_for(lambda: any(file.is_file() and file.stat().st_size for file in stderr), "process that waits")
    finally:
        mirror.held.set()
        for process in both:
            process.join(WAIT)
    assert [process.exitcode for process in both] == [0, 0]
    assert [path for path, _ in mirror.asked] == [f"/{RELEASE}/{file}" for file in SOURCES]
    notice = f"satbench: another process works on {NAME}; waiting for it\n"
    assert sorted(file.read_text() for file in stderr) == ["", notice]
    assert there() == CONTENT
    pins = json.loads((home / "zoo.lock").read_text())
    assert set(pins) == {NAME, *(f"{number}-{i}" for number in (0, 1) for i in range(50))}
    assert pins[NAME] == {file: hashlib.sha256(content).hexdigest() for file, content in CONTENT.items()}


@pytest.mark.left_out
def test_a_killed_fetch_goes_on_and_its_lock_is_gone(
    mirror: Site, home: Path, processes: multiprocessing.context.ForkServerContext
) -> None:
    home.mkdir()
    mirror.hold_at = 5 << 18
    process = processes.Process(target=fetch_and_pin, args=(home, mirror.url, 0))
    process.start()
    try:
        wait_for(lambda: sum(path.stat().st_size for path in home.rglob("*.part")) == 1 << 20, "first MiB")
    finally:
        assert process.pid
        os.kill(process.pid, signal.SIGKILL)
        process.join(WAIT)
        mirror.held.set()
    assert set(there()) - {INDEX} == {path.name for path in home.rglob("*.part")}
    fetch(NAME, RELEASE, SOURCES, silent)
    assert there() == CONTENT
    assert ranges(mirror, f"/{RELEASE}/{DATA}") == [0, 0, 1 << 20]  # the second asks what there is and hangs up


@pytest.mark.parametrize("packed", [False, True])
def test_no_more_than_the_cards_size_is_downloaded(packed: bool, site: Site) -> None:
    """Also where a server packs 64 MiB, unasked, into 64 KiB."""
    content = bytes(64 << 20)
    site.replies["/net.pt"] = Reply(gzip.compress(content), encoding="gzip") if packed else Reply(content)
    with pytest.raises(BadInput, match=r"sends more than 100,000 bytes.*correct the size on its card"):
        room.fetch_url(NAME, f"{site.url}/net.pt", "0" * 64, silent, size=100_000)
    assert [path for path in cache.folder(NAME).rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def test_a_file_of_unknown_size_has_a_bound_too(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_BYTES", 1 << 20)
    site.replies["/net.pt"] = Reply(DATA_BYTES)
    with pytest.raises(BadInput, match="sends more than 1,048,576 bytes"):
        room.fetch_url(NAME, f"{site.url}/net.pt", "0" * 64, silent)


@pytest.mark.parametrize("reply", [Reply(b"a: 1", announced=100), Reply(b"no gzip", encoding="gzip")])
def test_a_registry_that_is_cut_short_or_damaged_on_the_way_is_named(reply: Reply, site: Site) -> None:
    site.replies["/zoo.yaml"] = reply
    with pytest.raises(BadInput, match=r"the registry .*/zoo.yaml cannot be read \("):
        text_file(f"{site.url}/zoo.yaml")


def test_a_registry_that_unpacks_to_too_much_is_refused(site: Site) -> None:
    site.replies["/zoo.yaml"] = Reply(gzip.compress(bytes(64 << 20)), encoding="gzip")
    with pytest.raises(BadInput, match="larger than 4 MiB"):
        text_file(f"{site.url}/zoo.yaml")


def test_a_pipe_in_place_of_a_cached_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    os.mkfifo(tmp_path / "hub" / "checkpoints" / "net-01234567.pth")
    with pytest.raises(BadInput, match=r"net-01234567.pth is not a plain file"):
        at_url("https://example.invalid/net-01234567.pth")
