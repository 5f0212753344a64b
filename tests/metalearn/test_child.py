"""Files are read in a child process: what it may use, how it ends, and that it leaves nothing."""

import fcntl
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.config.commands import PrepareConfig
from metalearn.data import prepare as module
from metalearn.data.copies import Copies
from metalearn.data.prepare import prepare
from metalearn.data.reading import write_arrays
from metalearn.data.source import Part
from metalearn.data.store import described_arrays, keep
from metalearn.data.untrusted.child import Limits, call
from metalearn.errors import DataError
from tests.metalearn import children, legacy

LIMITS = Limits(memory=2**28, processor_seconds=30, wall_seconds=60.0, written=2**24)
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts memory as Linux does")


def asked(folder: Path, function: Callable[..., Any], *arguments: Any, **limits: Any) -> Any:
    folder.mkdir(exist_ok=True)
    allowed = replace(LIMITS, **limits)
    return call(function, *arguments, folder=folder, limits=allowed, source="the source")


def test_a_child_has_nothing_of_its_parent_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "1")
    with (tmp_path / "file").open("wb") as file:
        # A number that is free here, and that a child's own files don't come to. One that is taken,
        # by multiprocessing's tracker say, would be closed, and be somebody else's later.
        number = fcntl.fcntl(file, fcntl.F_DUPFD, 100)  # inherited by whoever does not close it
        try:
            seen = asked(tmp_path / "own", children.surroundings, number)
        finally:
            os.close(number)
    own = str(tmp_path / "own")
    expected = {"environment": [], "folder": own, "temporary": own, "inherited": False}
    assert seen == expected


def test_what_a_child_refuses_is_refused_here(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^the file is another one\.$"):
        asked(tmp_path, children.refuse)


@linux
def test_memory_is_limited(tmp_path: Path) -> None:
    assert asked(tmp_path / "a", children.allocate, 2**25, memory=2**26) == 2**25
    with pytest.raises(DataError, match="large file took more than the 67108864 bytes of memory"):
        asked(tmp_path / "b", children.allocate, 2**27, memory=2**26)


def test_written_bytes_are_limited(tmp_path: Path) -> None:
    assert asked(tmp_path / "a", children.write, 2**16, written=2**17) == 2**16
    with pytest.raises(DataError, match="growing file took a file of more than the 131072 bytes"):
        asked(tmp_path / "b", children.write, 2**18, written=2**17)


def test_processor_time_is_limited(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="long file took more than the 1 seconds of processor time"):
        asked(tmp_path, children.count, processor_seconds=1)


@pytest.mark.parametrize(("does", "named"), [("sleep", "slow file"), ("stop", "the source")])
def test_time_by_the_clock_is_limited(does: str, named: str, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(DataError, match=f"{named} took more than the 3 seconds by the clock"):
        asked(tmp_path, getattr(children, does), wall_seconds=3.0)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("end", r"fatal file ended the process that read it \(SIGKILL\)"),
        ("leave", r"the source ended the process that read it \(exit status 3\)"),
        ("fail", r"exit status 1: KeyError: 'a mistake of ours'"),
    ],
)
def test_a_child_that_ends_early_is_told(does: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=said):
        asked(tmp_path, getattr(children, does))


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        pytest.param("memory", 2**12, "bytes of memory", marks=linux),
        ("written", 2**12, "a file of more than the 4096 bytes"),
        ("wall_seconds", 0.001, "seconds by the clock"),
    ],
)
def test_a_limit_names_the_source_and_leaves_nothing(
    limit: str, value: Any, said: str, tmp_path: Path
) -> None:
    source = legacy.put(tmp_path / "source", legacy.cache("val"))
    config = PrepareConfig(
        dataset="miniimagenet", source=(source,), root=tmp_path / "out", allow_partial=True
    )
    allowed = replace(LIMITS, **{limit: value})
    with pytest.raises(DataError, match=said) as refused:
        prepare(config, limits=allowed)
    assert "source" in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]
    prepare(config, limits=LIMITS)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["miniimagenet"]


def test_an_interrupted_parent_ends_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(process: Any, timeout: float | None = None) -> int:
        monkeypatch.undo()
        ended.append(process)
        raise KeyboardInterrupt

    ended: list[Any] = []
    monkeypatch.setattr("subprocess.Popen.wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, children.sleep)
    assert ended[0].returncode is not None


def test_a_child_s_word_on_classes_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = legacy.put(tmp_path / "source", legacy.cache("val"))
    config = PrepareConfig(
        dataset="miniimagenet", source=(source,), root=tmp_path / "out", allow_partial=True
    )

    def answering(change: Callable[[dict[str, Any]], object]) -> None:
        def answer(*arguments: Any, **options: Any) -> Any:
            found = call(*arguments, **options)
            change(found)
            return found

        monkeypatch.setattr(module, "call", answer)

    changes: list[tuple[Callable[[dict[str, Any]], object], str]] = [
        (lambda found: found["sizes"].pop("test"), "was to be made of"),
        (lambda found: found["sizes"]["train"].pop(), "does not describe"),
        (lambda found: found["sizes"]["train"].append(["dragon", 2]), "does not have there"),
        (lambda found: found.pop("source"), "can't be read as a list of classes"),
        (lambda found: found["sizes"]["train"][0].append(1), "can't be read as a list of classes"),
        (lambda found: found.pop("remarks"), "can't be read as a list of remarks"),
        (lambda found: found["files"]["test.counts.npy"].update(sha256=""), "another size or sum"),
    ]
    for change, said in changes:
        answering(change)
        with pytest.raises(DataError, match=said):
            prepare(config, limits=LIMITS)
        assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_written_arrays_are_looked_at(tmp_path: Path) -> None:
    pixels = np.zeros((2, 8, 8, 3), np.uint8)

    def kept(name: str, change: Callable[[Path], object], *, side: int = 8) -> None:
        folder = tmp_path / name
        folder.mkdir()
        parts = {"train": [Part("a", 2, lambda: pixels)]}
        files = write_arrays(folder, parts, Copies(), side=8, channels=3)  # type: ignore[arg-type]
        change(folder)
        about = described_arrays({"train": [("a", 2)]}, side=side, channels=3)
        keep(folder, tmp_path / f"{name} kept", {**about, "files": files}, remarks="")

    kept("whole", lambda folder: None)
    wrong: list[tuple[str, Callable[[Path], object], str]] = [
        ("changed", lambda f: (f / "train.images.npy").write_bytes(b"x"), "another size"),
        ("another", lambda f: (f / "more").touch(), "was to be made of"),
        ("missing", lambda f: (f / "train.images.npy").unlink(), "was to be made of"),
        ("linked", _linked, "was to be made of"),
    ]
    for name, change, said in wrong:
        with pytest.raises(DataError, match=said):
            kept(name, change)
        assert not (tmp_path / f"{name} kept").exists()
    with pytest.raises(DataError, match="does not describe"):
        kept("other size", lambda folder: None, side=9)


def _linked(folder: Path) -> None:
    file = folder / "train.images.npy"
    other = folder.parent / "elsewhere"
    file.rename(other)
    file.symlink_to(other)
