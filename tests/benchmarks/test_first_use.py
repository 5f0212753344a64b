"""The README commands on own pictures work from an empty folder, and answers are counted right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import first_use
from metalearn.cli import main

SHORT = ("--steps=2", "--validate-every=2", "--validation-episodes=2", "--test-episodes=2")


def test_the_readme_s_commands_lead_from_pictures_to_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[str] = []

    def here(command: str, folder: Path) -> dict[str, Any]:
        """In this process."""
        monkeypatch.chdir(folder)
        monkeypatch.setenv("METALEARN_CACHE", str(folder / "cache"))
        words = command.split()
        ran.append(words[1])
        main(words[1:])
        return {"command": command}

    monkeypatch.setattr(first_use, "run", here)
    # a fifth of the classes must be enough for a test of 5, and 6 pictures for one and 5 queries
    found = first_use.study(
        (*SHORT, "--filters=4", "--tracker=none", "--threads=1"),
        classes=25,
        each=6,
        new=2,
        labelled=4,
    )
    assert ran == ["prepare", "train", "classify"]
    assert found["asked"] == 2 * 2
    assert 0 <= found["right"] <= found["asked"]


def test_right_answers_are_those_in_the_names(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    rows = ['"a/one, 1.png",one', '"a/one, 2.png",two', '"a/two, 1.png",two', '"a/two, 2.png",']
    file.write_text("\n".join(["file,answer", *rows]), encoding="utf-8")
    assert first_use.answers(file) == (2, 4)


def test_a_command_that_fails_is_no_result(tmp_path: Path) -> None:
    assert len(first_use.commands()) == 3
    with pytest.raises(RuntimeError, match=r"metalearn classify ended with [12]: "):
        first_use.run("metalearn classify", tmp_path)
