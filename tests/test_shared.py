"""A folder at a URL: what one machine writes, others read whole; leases in place of locks."""

import os
import time
from pathlib import Path

import pytest

from satbench.core import shared as sharing
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.shared import leased, shared


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "SETTLE", 0.01)


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_a_path_is_its_own_folder(tmp_path: Path) -> None:
    with shared(tmp_path) as folder, leased(folder / ".claims" / "a") as mine:
        assert folder == tmp_path
        assert mine
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("protocol", ["file", "memory"])
def test_files_reach_the_url_and_the_next_machine(protocol: str, tmp_path: Path) -> None:
    url = f"{protocol}://{tmp_path}/study"
    with shared(url) as first:
        write_text(first / "parts" / "a", "1")
        write_text(first / ".hidden", "not shared")
        write_text(first / ".claims" / "lock", "")
    assert not first.exists()
    with shared(url) as second:
        assert names(second) == ["parts/a"]
        write_text(second / "parts" / "a", "22")
        write_text(second / "state", "of a training")
    with shared(url) as third:
        assert (third / "parts" / "a").read_text() == "22"
        (third / "state").unlink()
    with shared(url) as fourth:
        assert names(fourth) == ["parts/a"]


def test_two_machines_at_work_see_what_the_other_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "EVERY", 0.05)
    url = f"file://{tmp_path}/study"

    def wait_for(file: Path, there: bool = True) -> None:
        end = time.monotonic() + 20
        while file.exists() != there:
            assert time.monotonic() < end
            time.sleep(0.01)

    with shared(url) as one, shared(url) as other:
        write_text(one / "a", "from one")
        wait_for(other / "a")
        write_text(other / "b" / "c", "from the other")
        wait_for(one / "b" / "c")
        (other / "a").unlink()
        wait_for(one / "a", there=False)


def test_a_lease_is_one_machines_until_what_it_wrote_is_there(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/study"
    with shared(url) as one, shared(url) as other:
        with leased(one / ".claims" / "job") as mine:
            assert mine
            with leased(other / ".claims" / "job") as also:
                assert not also
            with leased(other / ".claims" / "another") as free:
                assert free
            write_text(one / "part", "computed")
        with leased(other / ".claims" / "job") as mine:
            assert mine
            assert (other / "part").read_text() == "computed"


def test_a_lease_that_nobody_renews_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"file://{tmp_path}/study"
    with shared(url) as one, shared(url) as other, leased(one / "job"):
        with leased(other / "job") as early:
            assert not early
        monkeypatch.setattr(sharing, "LEASE", 0.0)
        with leased(other / "job") as late:
            assert not late  # a lease of no duration is nobody's
        now = time.time()
        monkeypatch.setattr(sharing, "LEASE", 120.0)
        monkeypatch.setattr(time, "time", lambda: now + 121)
        with leased(other / "job") as late:
            assert late


@pytest.mark.parametrize("url", ["nope://bucket/study", "s3://bucket/study"])
def test_a_url_that_fsspec_cannot_open_is_refused(url: str) -> None:
    if url.startswith("s3") and any(Path(path, "s3fs").exists() for path in os.sys.path):  # type: ignore[attr-defined]
        pytest.skip("s3fs is installed")
    with pytest.raises(BadInput, match=f"^{url}: .*; give a folder or a URL that fsspec opens$"), shared(url):
        pass
