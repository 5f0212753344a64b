"""Files are whole or absent, and a result knows where it comes from."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import metalearn.runs.provenance
from metalearn.files import write_atomically, write_json
from metalearn.training.progress import Display


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def fail(*arguments: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_files_are_as_open_as_the_umask_says(tmp_path: Path) -> None:
    for mask in (0o022, 0o077, 0o002):
        before = os.umask(mask)
        try:
            write_atomically(tmp_path / f"{mask}", b"content")
        finally:
            os.umask(before)
        assert (tmp_path / f"{mask}").stat().st_mode & 0o777 == 0o666 & ~mask


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"loss": float("nan")})
    assert not (tmp_path / "file").exists()


def git(folder: Path, *arguments: str) -> str:
    name = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    done = subprocess.run(
        ["git", "-C", str(folder), *name, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_commit_is_that_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = tmp_path / "metalearn" / "code.py"
    code.parent.mkdir()
    code.write_text("1")
    monkeypatch.setattr(metalearn.runs.provenance, "__file__", str(code))
    nothing = {"commit": "unknown", "dirty": None}
    assert metalearn.runs.provenance.commit() == nothing
    git(tmp_path, "init", "--quiet")
    # A checkout around code that isn't part of it says nothing about the code.
    assert metalearn.runs.provenance.commit() == nothing
    git(tmp_path, "add", "metalearn/code.py")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert metalearn.runs.provenance.commit() == {"commit": head, "dirty": False}
    # A run's own folder is no change of the code.
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "result.json").write_text("{}")
    assert metalearn.runs.provenance.commit() == {"commit": head, "dirty": False}
    (code.parent / "new.py").write_text("1")
    assert metalearn.runs.provenance.commit() == {"commit": head, "dirty": True}
    (code.parent / "new.py").unlink()
    code.write_text("2")
    assert metalearn.runs.provenance.commit() == {"commit": head, "dirty": True}


def test_peak_memory_sees_an_allocation() -> None:
    # In a process of its own: the peak of this one may be any earlier test's.
    code = """
import torch
from metalearn.runs.provenance import peak_memory
cpu = torch.device("cpu")
before = peak_memory(cpu)["bytes"]
block = torch.ones(2 * before, dtype=torch.uint8)
del block
print(before, peak_memory(cpu)["bytes"], peak_memory(cpu)["measure"], sep=";")
"""
    held = b"1" * 2**30  # what the parent holds is none of the child's peak
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    del held
    before, after, measure = done.stdout.strip().split(";")
    assert int(before) < 2**30
    # Every page of the block was written, so all of it was resident at once; beside it there was
    # at most what had been held before, and some interpreter's crumbs.
    assert 2 * int(before) <= int(after) <= 3 * int(before) + 2**24
    assert measure == "resident set of the process, earlier runs in it included"


def test_a_resumed_runs_commits_are_all_named() -> None:
    joined = metalearn.runs.provenance.joined
    one, two = {"commit": "a", "dirty": True}, {"commit": "b", "dirty": False}
    assert joined(one, one) == one
    assert joined(one, two) == {"commit": "a, then b", "dirty": True}
    assert joined(joined(one, two), two) == {"commit": "a, then b", "dirty": True}
    assert joined(two, {"commit": "unknown", "dirty": None})["dirty"] is None


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_what_matters(terminal: bool) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=160)
    display = Display(console, 10)
    with display.running():
        display.update(5, {"loss": 0.5, "residual": 1e-5, "stationarity": 2e-6})
        display.update(5, {"loss": 0.25, "validation": 0.875})
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    for part in ("5/10", "loss 0.250", "validation 87.50%", "CG residual 1e-05", "left"):
        assert part in said
    assert "stationarity 2e-06" in said
    if not terminal:
        assert said.count("\n") == 1  # plain: one line for each validation, nothing redrawn
        assert "\x1b" not in said
