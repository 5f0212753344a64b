"""The page on the age of result files lists all of them, and a commit to their code counts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from benchmarks import ages
from benchmarks.ages import RECORDED, ROOT, Recorded

PAGE = ROOT / "docs" / "ages.md"
AGAIN = "run python -m benchmarks.ages --out docs/ages.md"


def test_every_result_file_has_a_command() -> None:
    assert ages.unlisted() == []
    for each in RECORDED:
        assert list(ROOT.glob(each.files)), each.files
        assert all((ROOT / path).exists() for path in each.code), each.code


def test_a_file_without_a_command_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "new.json").write_text("{}", encoding="utf-8")
    assert ages.unlisted(tmp_path) == ["results/new.json"]


def test_the_page_names_each_file_with_its_commit() -> None:
    """All but the ages, which every commit changes; the page says when they were counted."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    shown = [line.rsplit(" | ", 1)[0] for line in lines if line.startswith("| `")]
    assert shown == [f"| {' | '.join(ages.row(each)[:-1])}" for each in RECORDED], AGAIN


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A history of one commit, and a result file that names it."""
    for folder in ("code", "other", "results"):
        (tmp_path / folder).mkdir()
    git(tmp_path, "init", "--quiet")
    changed(tmp_path, "code/measured.py", "first")
    record = {"provenance": {"commit": git(tmp_path, "rev-parse", "HEAD"), "seed": 0}}
    changed(tmp_path, "results/found.json", json.dumps(record))
    return tmp_path


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=A", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def changed(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    git(folder, "add", name)
    git(folder, "commit", "--quiet", "--message", name)


def test_only_commits_to_the_code_count(checkout: Path) -> None:
    recorded = Recorded(files="results/*.json", command="measure", code=("code",))
    assert ages.row(recorded, checkout)[-1] == "0"
    changed(checkout, "other/file.py", "beside")
    assert ages.row(recorded, checkout)[-1] == "0"
    changed(checkout, "code/measured.py", "second")
    assert ages.row(recorded, checkout)[-1] == "1"


def test_a_commit_of_another_history_has_no_age(checkout: Path) -> None:
    assert ages.since("0" * 40, ("code",), checkout) is None
    assert ages.since("HEAD", ("code",), checkout) == 0
