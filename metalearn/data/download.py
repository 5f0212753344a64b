"""Fetches the files of a data set: several mirrors, known checksums, resumed where it broke off.

A broken download stays as `FILE.part` beside its place; the next try asks for the rest of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

from metalearn.data.published import Published, Remote
from metalearn.data.untrusted.damage import is_page
from metalearn.errors import DataError

_TIMEOUT: Final = 30.0  # seconds without a byte
_BLOCK: Final = 2**18


class _Broken(Exception):
    """A download that ended early, or brought something else; the message says which."""


def _is_page(path: Path) -> bool:
    with path.open("rb") as file:
        return is_page(file.read(512))


class _Resuming:
    """Downloader for pooch: begins where `part` ends, and leaves it when it breaks off."""

    def __init__(self, part: Path, report: Callable[[int, int | None], object]) -> None:
        self.part, self.report, self.resumed = part, report, False

    def __call__(self, url: str, output_file: str, pooch: object, check_only: bool = False) -> None:
        have = self.part.stat().st_size if self.part.exists() else 0
        # Plain bytes: a compressed answer has other lengths and ranges.
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers["Range"] = f"bytes={have}-"
        with requests.get(url, stream=True, timeout=_TIMEOUT, headers=headers) as answer:
            if answer.status_code != requests.codes.range_not_satisfiable:  # all of it is there
                answer.raise_for_status()
                self.resumed = answer.status_code == requests.codes.partial_content
                self._receive(answer, have if self.resumed else 0)
            else:
                self.resumed = True
        if _is_page(self.part):
            self.part.unlink()
            raise _Broken("brought an HTML page, not the file")
        os.replace(self.part, output_file)

    def _receive(self, answer: requests.Response, have: int) -> None:
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        with self.part.open("ab" if have else "wb") as file:
            for block in answer.iter_content(_BLOCK):
                file.write(block)
                self.report(file.tell(), total)
            size = file.tell()
        if total is not None and size != total:
            raise _Broken(f"ended after {size} of {total} bytes")


def _from(url: str, remote: Remote, folder: Path, progress: Progress) -> None:
    part = folder / f"{remote.name}.part"
    task = progress.add_task(remote.name, total=None)
    downloader = _Resuming(
        part, lambda done, total: progress.update(task, completed=done, total=total)
    )
    try:
        for _ in range(2):
            try:
                pooch.retrieve(url, remote.checksum, remote.name, folder, downloader=downloader)
                return
            except ValueError as error:  # pooch's word for another checksum
                # What was resumed may have been the beginning of another file: once more, in full.
                if not downloader.resumed:
                    raise _Broken("brought a file with another checksum") from error
        raise _Broken("brought a file with another checksum")
    finally:
        progress.remove_task(task)


def _reason(error: Exception) -> str:
    """Cause of an error, without the objects that requests wraps around it."""
    if isinstance(error, requests.Timeout):
        return f"no answer within {_TIMEOUT:.0f} s"
    if isinstance(error, requests.ConnectionError):
        inner = error.args[0] if error.args else error
        cause = str(getattr(inner, "reason", inner))
        return f"no connection ({cause.rpartition(': ')[2][:200]})"
    return str(error)[:200]


def _fetch(remote: Remote, folder: Path, progress: Progress) -> None:
    place = folder / remote.name
    algorithm, _, digest = remote.checksum.partition(":")
    if place.exists():
        found = pooch.file_hash(str(place), alg=algorithm)
        if found == digest:
            return
        kind = "an HTML page" if _is_page(place) else f"{algorithm} {found}"
        raise DataError(
            f"{place} is there with other content ({kind}, not {digest}): remove it to have it "
            "downloaded, or read it as it is with --source."
        )
    failures = []
    for url in remote.urls:
        try:
            _from(url, remote, folder, progress)
        except (requests.RequestException, _Broken) as error:
            failures.append(f"  {url}: {_reason(error)}")
        else:
            return
    raise DataError(
        f"{remote.name} could not be downloaded:\n"
        + "\n".join(failures)
        + f"\nRun the command again to resume, or get {remote.name} ({remote.checksum}) by hand, "
        f"put it into {folder} and run the command again."
    )


def download(known: Published, folder: Path, *, console: Console | None = None) -> Path:
    """Fetch the files of a data set that are not there yet.

    Args:
        known: the data set.
        folder: folder for the files.
        console: console that shows progress.

    Returns:
        The folder.

    Raises:
        DataError: a file can't be had: named, with the reason from each mirror and the place to
            put it by hand; or another file is in its place.
    """
    if not known.remotes:
        raise DataError(
            f"{known.name} can't be downloaded by this command: there is no plain address with a "
            f"published checksum. Get {known.by_hand}, put it into {folder} and run "
            f"`metalearn prepare {known.name} --source {folder}`."
        )
    pooch.get_logger().setLevel("WARNING")  # the bars say what is downloaded
    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Progress(*columns, console=console, disable=console is None, transient=True) as bars:
            for remote in known.remotes:
                _fetch(remote, folder, bars)
    except OSError as error:
        raise DataError(f"{folder} can't be written ({error}): give another --root.") from error
    return folder
