"""The command line and its report: exit status, JSON, a page that stands by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from verification import __main__ as command
from verification.claims.certificates import Certified, certified
from verification.problems.drawn import Instance
from verification.report import curves as series
from verification.report.curves import Series, tightness
from verification.report.page import html
from verification.report.record import record, write
from verification.subjects.algorithm1 import memory_reduced
from verification.subjects.bugs import ALGORITHM
from verification.suite.registry import suite
from verification.suite.runner import run

ROOT = Path(__file__).parents[2]
LINE = Series(
    name="error against K",
    x_label="K, steps",
    y_label="error",
    x=(0.0, 1.0, 2.0),
    measured={"Algorithm 1": (1.0, 0.1, 0.01)},
    bounds={"Algorithm 1": (2.0, 0.2, 0.01)},
    problem="a toy",
)


def test_a_run_writes_a_report_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", "--size", "small", "--claims", "linear solvers,saved bytes"]
    assert command.main([*arguments, "--workers", "1", "--out", str(tmp_path)]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["passed"]
    assert {cell["bug"] for cell in report["detection"]} >= {"L01", "L05", "B03"}
    assert set(report["provenance"]) == {"commit", "changed", "versions", "device"}
    assert "the run passes" in capsys.readouterr().out
    drawn = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    assert command.main(["report", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == drawn


def test_a_page_stands_by_itself_and_shows_everything(tmp_path: Path) -> None:
    outcome = run(suite, "small", claims=("warm starts",), bug_seeds=1)
    outcome.failures = ["claim warm starts fails <because>"]
    page = html(json.loads(json.dumps(record(outcome, [LINE], seconds=1.0), allow_nan=False)))
    assert not re.search(r'(src|href)="https?:|<script|<link|@import', page)
    failure = "claim warm starts fails &lt;because&gt;"
    for words in ("warm starts", "W04", "Error against K", failure):
        assert words in page
    assert page.count("<svg") == 2
    assert len(set(re.findall(r'<clipPath id="([^"]+)"', page))) >= 2


def test_a_failing_run_exits_with_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series.Series, "violations", lambda self: ["series 'x': 2 against 1"])
    monkeypatch.setattr(command, "SERIES", (lambda: [LINE],))
    monkeypatch.setattr(command, "suite", lambda: suite().only(("saved bytes",)))
    assert command.main(["run", "--workers", "1", "--out", str(tmp_path)]) == 1
    assert json.loads((tmp_path / "report.json").read_text())["failures"] == [
        "series 'x': 2 against 1"
    ]


@pytest.mark.parametrize("arguments", [["--claims", "D9"], ["--workers", "0"]])
def test_nonsense_is_refused(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(["run", "--out", str(tmp_path), *arguments])
    assert stopped.value.code == 2


def test_series_are_held_to_their_bounds() -> None:
    assert LINE.violations() == []
    over = Series(**{**vars(LINE), "measured": {"Algorithm 1": (1.0, 0.3, float("nan"))}})
    assert len(over.violations()) == 2
    exact = Series(**{**vars(LINE), "bounds": {}, "values": LINE.bounds, "slack": 1e-9})
    assert len(exact.violations()) == 2  # half of the value is as wrong as twice


def test_the_series_of_the_report_hold() -> None:
    for curves in (*series.theorem_a(memory_reduced), *series.memory()):
        assert curves.violations() == []
        assert len(curves.x) == len(next(iter(curves.measured.values())))
    first_order = series.theorem_a(lambda problem, theta, *rest, **named: 0 * theta)
    assert any(curves.violations() for curves in first_order)


def test_tightness_is_a_distribution_and_a_wrong_answer_is_beyond_it() -> None:
    def first_order(instance: Instance, warm: bool, **counts: Any) -> Certified:
        found = certified(instance, warm, **counts)
        return replace(found, h=0 * found.h)

    a, b = tightness(seeds=5)
    assert a.violations() == b.violations() == []
    for curves in (a, b):
        assert list(curves.measured) == ["quad", "exp", "lc", "log"]
        for line in curves.measured.values():
            assert list(line) == sorted(line)
            assert line[0] < line[len(line) // 2] < line[-1]
    assert all(curves.violations() for curves in tightness(first_order, seeds=5))


def test_writing_is_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write("one", path)
    with pytest.raises(UnicodeEncodeError):
        write("a half of a pair \ud800", path)
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_on_source_with_a_bug_fails_and_names_the_claim(tmp_path: Path) -> None:
    """A copy of the packages, one line changed, and the command as anybody would run it there."""
    for package in ("hypergrad", "verification"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignore)
    (bug,) = (bug for bug in ALGORITHM.bugs if bug.name == "M16")
    (change,) = bug.subject.bugs
    path = tmp_path.joinpath(*change.module.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    assert text.count(change.old) == 1
    path.write_text(text.replace(change.old, change.new), encoding="utf-8")
    command = [sys.executable, "-m", "verification", "run", "--size", "small", "--out", "out"]
    command += ["--claims", bug.claim, "--bugs", "none", "--workers", "1"]
    # -m puts the working folder first: the copy is what is imported
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"FAILS: claim {bug.claim} fails for 30 of 30 seeds" in done.stdout
