"""Downloads from a server of this process: mirrors, checksums, resumption, and advice."""

import hashlib
import io
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from metalearn.cli import main
from metalearn.config.commands import PrepareConfig
from metalearn.data import prepare as module
from metalearn.data.download import download
from metalearn.data.published import SPLITS, DatasetName, Published, Remote, published
from metalearn.data.store import open_store
from metalearn.errors import ConfigError, DataError
from tests.metalearn import legacy

CONTENT = bytes(range(256)) * 2**12  # a mebibyte, four blocks
HALF = len(CONTENT) // 2
PAGE = b"<!DOCTYPE html><html>sign in</html>"


@dataclass
class Served:
    """What the server answers: bytes by path, where answers break off, and what was asked."""

    content: dict[str, bytes]
    breaks: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    served: Served

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.served.asked.append((self.path, wanted))
        content = self.served.content.get(self.path)
        if content is None:
            self.send_error(404)
            return
        start = 0
        if wanted is not None and self.served.ranges:
            found = re.fullmatch(r"bytes=(\d+)-", wanted)
            assert found is not None
            start = int(found[1])
            if start >= len(content):
                self.send_error(416)
                return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.served.breaks.pop(self.path, None)])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[Served]:
    what = Served({"/good": CONTENT})
    handler = type("Handler", (_Handler,), {"served": what})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        what.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield what
        server.shutdown()
        thread.join()


def md5(content: bytes) -> str:
    return "md5:" + hashlib.md5(content, usedforsecurity=False).hexdigest()


def at(*urls: str, name: str = "data.bin", content: bytes = CONTENT) -> Published:
    """A data set that is one file at these places."""
    return replace(published("fc100"), remotes=(Remote(name, md5(content), urls),))


def places(served: Served, *paths: str) -> Published:
    return at(*(served.url + path for path in paths))


def test_mirrors_are_tried_in_turn_and_nothing_is_fetched_twice(
    served: Served, tmp_path: Path
) -> None:
    served.content |= {"/page": PAGE, "/other": CONTENT[::-1]}
    known = places(served, "/missing", "/page", "/other", "/good", "/never")
    shown = io.StringIO()
    for _ in range(2):
        assert download(known, tmp_path, console=Console(file=shown)) == tmp_path
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [path for path, _ in served.asked] == ["/missing", "/page", "/other", "/good"]
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_is_resumed(served: Served, tmp_path: Path, ranges: bool) -> None:
    served.breaks, served.ranges = {"/good": HALF + 1000}, ranges
    known = places(served, "/good")
    with pytest.raises(DataError, match="Run the command again to resume"):
        download(known, tmp_path)
    # Whole blocks are kept.
    assert (tmp_path / "data.bin.part").stat().st_size == HALF
    download(known, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [asked for _, asked in served.asked] == [None, f"bytes={HALF}-"]
    assert not (tmp_path / "data.bin.part").exists()


@pytest.mark.parametrize("part", [b"another file's beginning", CONTENT[::-1]])
def test_a_part_of_something_else_is_given_up(served: Served, tmp_path: Path, part: bytes) -> None:
    (tmp_path / "data.bin.part").write_bytes(part)
    download(places(served, "/good"), tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert [asked for _, asked in served.asked] == [f"bytes={len(part)}-", None]


def test_a_failure_says_what_to_do_by_hand(served: Served, tmp_path: Path) -> None:
    served.content["/page"] = PAGE
    known = places(served, "/missing", "/page")
    with pytest.raises(DataError) as refused:
        download(known, tmp_path)
    said = str(refused.value)
    assert f"{served.url}/missing: 404" in said
    assert f"{served.url}/page: brought an HTML page" in said
    assert f"get data.bin ({md5(CONTENT)}) by hand, put it into {tmp_path}" in said
    (tmp_path / "data.bin").write_bytes(CONTENT)
    asked = len(served.asked)
    download(known, tmp_path)
    assert len(served.asked) == asked


def test_another_file_in_its_place_is_kept_and_told(served: Served, tmp_path: Path) -> None:
    for content, kind in ((PAGE, "an HTML page"), (b"mine", md5(b"mine").replace(":", " "))):
        (tmp_path / "data.bin").write_bytes(content)
        with pytest.raises(DataError, match=kind):
            download(places(served, "/good"), tmp_path)
        assert (tmp_path / "data.bin").read_bytes() == content
    assert not served.asked


def test_an_unreachable_server_is_named(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        port = server.server_address[1]
    with pytest.raises(DataError) as refused:
        download(at(f"http://127.0.0.1:{port}/x"), tmp_path)
    assert f"127.0.0.1:{port}/x: no connection ([Errno" in str(refused.value)
    assert "HTTPConnection" not in str(refused.value)


def test_every_data_set_is_downloaded_or_explained(tmp_path: Path) -> None:
    sets = [published(name) for name in get_args(DatasetName)]
    assert all(bool(known.remotes) != bool(known.by_hand) for known in sets)
    for remote in {remote for known in sets for remote in known.remotes}:
        assert re.fullmatch("md5:[0-9a-f]{32}", remote.checksum)
        assert len(set(remote.urls)) == len(remote.urls) >= 3
        assert all(url.startswith("https://") for url in remote.urls)
    with pytest.raises(DataError, match="Get mini-imagenet-cache.*put it into"):
        download(published("miniimagenet"), tmp_path)


def test_the_command_downloads_and_prepares(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = legacy.official_tar()["cifar-100-python.tar.gz"]
    served.content["/c"] = archive
    file = Remote("cifar-100-python.tar.gz", md5(archive), (f"{served.url}/c",))
    known = replace(published("cifar-fs"), remotes=(file,))
    monkeypatch.setattr(module, "published", lambda name: known)
    arguments = ["prepare", "cifar-fs", "--download", f"--root={tmp_path}", "--allow-partial"]
    main(arguments)
    store = open_store(tmp_path / "cifar-fs", full=True)
    assert set(store.manifest["splits"]) == set(SPLITS)
    assert (tmp_path / "downloads" / "cifar-fs" / file.name).read_bytes() == archive


def test_a_source_or_a_download(tmp_path: Path) -> None:
    for given in ({"source": (tmp_path,), "download": True}, {}):
        with pytest.raises(ConfigError, match="either --source"):
            PrepareConfig(dataset="fc100", **given)  # type: ignore[arg-type]
