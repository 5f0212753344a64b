"""Each gate of the repository closes for a fault that is planted in front of it.

The others have their plantings beside them: the direction of imports in `test_layers.py`, what a
file may call in `test_security.py`, mutants in `test_mutation.py`, the figures of the benchmarks in
`tests/benchmarks/test_gate.py`, the suite in `tests/verification/test_report.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from mypy import api

from benchmarks import gate
from benchmarks.figures import Figure

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def recipe(target: str) -> list[list[str]]:
    """The commands of a target of the Makefile, as words."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = text.split(f"\n{target}: ")[1].splitlines()[1:]
    found = []
    for line in lines:
        if not line.startswith("\t"):
            break
        found.append(line.strip().replace("$(TEST_THREADS) ", "").replace("$(BIN)/", "").split())
    return found


def closes(command: list[str], *, given: str | None = None, folder: Path = ROOT) -> bool:
    """True if the command ends with a status other than 0."""
    words = [sys.executable, "-m", *command]
    done = subprocess.run(
        words, input=given, cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode == 1


@pytest.mark.parametrize(
    ("line", "sound", "faulty"),
    [
        (0, "VALUE = 1\n", "import os\n"),
        (0, '"""A page."""\n', '"""A page."""\n\nprint(1)\n'),
        (1, "VALUE = (1, 2)\n", "VALUE = (1,2)\n"),
    ],
)
def test_style(line: int, sound: str, faulty: str) -> None:
    command = recipe("lint")[line]
    assert command.pop() == "."
    command += ["--stdin-filename", "hypergrad/planted.py", "-"]
    header = "" if sound.startswith('"""') else '"""A page."""\n\n'
    assert not closes(command, given=header + sound)
    assert closes(command, given=header + faulty)


def test_types(tmp_path: Path) -> None:
    assert recipe("lint")[2] == ["mypy"]  # all else is in pyproject.toml
    config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", "/dev/null"]
    command = [*config, str(tmp_path / "planted.py")]
    wrong = "def f(x: int) -> str:\n    return x\n"
    untyped = "def g(x):\n    return x\n"  # which strict mypy refuses
    for program, status, errors in (("VALUE = 1\n", 0, 0), (wrong + untyped, 1, 2)):
        (tmp_path / "planted.py").write_text(program, encoding="utf-8")
        said, summary, found = api.run(command)
        assert (found, said.count(" error: ")) == (status, errors), said + summary


@pytest.mark.parametrize(
    ("change", "fails"),
    [
        ({"x": Figure(3, "count")}, False),
        ({"x": Figure(4, "count")}, True),
        ({}, True),
        ({"y": Figure(3, "count")}, True),  # renamed: one is gone, one is new
    ],
)
def test_benchmarks(
    change: dict[str, Figure], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert recipe("bench-check") == [["python", "-m", "benchmarks.gate"]]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gate"])
    monkeypatch.setattr(gate, "load", lambda: {"x": Figure(3, "count")})
    for name, found in (("counted", change), ("generic", {}), ("imported", {}), ("timed", {})):
        monkeypatch.setattr(gate, name, lambda found=found: found)
    if not fails:
        gate.main()
        return
    with pytest.raises(SystemExit) as stopped:
        gate.main()
    assert stopped.value.code not in (0, None)


def test_tests(tmp_path: Path) -> None:
    """A warning fails a test."""
    assert recipe("test")[-1] == ["python", "-m", "pytest", "-n", "$(WORKERS)", "$(WATCHED)"]
    config = ["-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    command = ["pytest", *config, "--rootdir", str(tmp_path), str(tmp_path)]
    program = "import warnings\n\ndef test_it():\n    "
    (tmp_path / "test_it.py").write_text(program + "assert warnings\n", encoding="utf-8")
    assert not closes(command)
    (tmp_path / "test_it.py").write_text(program + "warnings.warn('planted')\n", encoding="utf-8")
    assert closes(command)


@pytest.mark.parametrize(
    ("words", "fails"),
    [
        ("A page.", False),
        ("A [link](gone.md).", True),
        ("A [link](#gone).", True),
        ('```{ .python }\n--8<-- "gone.py"\n```', True),
    ],
)
def test_docs(words: str, fails: bool, tmp_path: Path) -> None:
    """The recipe's own options: with ``--quiet`` mkdocs 1.6.1 counts no warning."""
    command = [word for word in recipe("docs")[0] if "=" not in word]
    assert command[0] == "mkdocs"
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Planted\n\n{words}\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ntheme: mkdocs\nplugins: []\nextra_css: []\n"
        f"docs_dir: docs\nsite_dir: site\nnav:\n  - Start: index.md\n",
        encoding="utf-8",
    )
    assert closes(command, folder=tmp_path) == fails


def test_no_failure_is_swallowed_on_the_way() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "set -euo pipefail" in text
    assert re.findall(r"^make (.*)$", text, flags=re.MULTILINE) == ["lint", "bench-check", "test"]
    for target in ("lint", "bench-check", "test", "docs", "verify", "mutants"):
        words = [word for command in recipe(target) for word in command]
        assert words
        assert not any(word.startswith(("-@", "|", ";")) or word == "-" for word in words)
        assert not any(command[0].startswith("-") for command in recipe(target))
