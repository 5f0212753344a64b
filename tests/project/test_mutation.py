"""The mutation testing of ``make mutants`` does what its report says."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.__main__ import files, modules
from tests.mutation.generate import function_of, mutants

ROOT = Path(__file__).parents[2]

MODULE = '''"""A module to be changed."""

import functools
from dataclasses import dataclass


def wrapped(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


@dataclass(frozen=True, slots=True)
class Line:
    slope: float = 2.0

    @wrapped
    def at(self, x: "float | int") -> float:
        """Decorated, as most solvers' solve is."""
        if x < 0:
            raise ValueError("negative" + " x")
        return self.slope * x + 1

    @property
    def double(self) -> float:
        return self.slope + self.slope

    def most(self, x):
        return max(
            x,
            self.slope,
        )


def untested(x):
    return x - 1


def count(n):
    done = 0
    while done < n:
        done += 1
    return done
'''

TESTS = """
import pytest
from {name} import Line, count

def test_at():
    assert Line().at(3.0) == 7.0
    with pytest.raises(ValueError):
        Line().at(-1.0)

@pytest.mark.parametrize("slope", [1.0, 3.0])
def test_double(slope):
    assert Line(slope).double > 0.5

def test_count():
    assert count(3) == 3
"""

PROGRAM = """
import sys, json, pytest
from pathlib import Path
from tests.mutation import plugin
plugin._SECONDS = 1
folder, name = Path(sys.argv[1]), sys.argv[2]
sys.path.insert(0, str(folder))
measured = folder / "tests.json"

class Late(plugin.Hunt):
    def pytest_collection_finish(self, session):
        from tests.mutation.generate import mutants
        self.mutants = mutants(name)

arguments = [str(folder / "test_it.py"), "-q", "-p", "no:cacheprovider", "--rootdir", str(folder)]
if sys.argv[3] == "measure":
    files = {name: str(folder / f"{name}.py")}
    sys.exit(pytest.main(arguments, plugins=[plugin.Measure(files, measured)]))
hunt = Late((), measured, 3.0)
assert pytest.main(arguments, plugins=[hunt]) == 0
fates = {}
for mutant in hunt.mutants:
    key = f"{'.'.join(mutant.path)}: {mutant.before} => {mutant.after}"
    fates[key] = hunt.fates[mutant.name]
(folder / "fates.json").write_text(json.dumps(fates))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A module and its tests in a folder of their own; its name."""
    name = f"changed_{request.node.name.removeprefix('test_')[:20]}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "test_it.py").write_text(TESTS.format(name=name), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_mutants_are_of_code_that_tests_should_see(project: str) -> None:
    found = [(".".join(m.path), m.before, m.after) for m in mutants(project)]
    assert ("Line.at", "self.slope * x + 1", "self.slope * x - 1") in found  # decorated
    assert ("Line.at", "< 0", "<= 0") in found
    assert ("Line.double", "self.slope + self.slope", "self.slope - self.slope") in found
    several_lines = ("Line.most", "max( x, self.slope, )", "max( None, self.slope, )")
    assert several_lines in found
    assert not any("negative" in before for _, before, _ in found)  # no message
    assert not any("int" in before for _, before, _ in found)  # no annotation
    assert len(found) == len(set(found))


def test_what_is_mutated_and_what_it_is_put_to_are_there() -> None:
    for name in modules():
        assert (ROOT / name.replace(".", "/")).with_suffix(".py").is_file(), name
    wanted = ("argmin", "conditions.sets", "implicit.nodes", "linear.damping", "lower.newton")
    assert {f"hypergrad.{name}" for name in wanted} <= {*modules()}
    assert not any("distributed" in name for name in modules())
    for path in files():
        assert path.is_file(), path.name


def test_a_mutant_replaces_the_code_below_decorators(project: str) -> None:
    module = importlib.import_module(project)
    (minus,) = (m for m in mutants(project) if m.after == "self.slope * x - 1")
    function = function_of(minus)
    honest, function.__code__ = function.__code__, minus.code
    assert module.Line().at(3.0) == 5.0
    function.__code__ = honest
    assert module.Line().at(3.0) == 7.0


def test_fates(project: str, tmp_path: Path) -> None:
    for stage in ("measure", "hunt"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(tmp_path), project, stage],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    fates = json.loads((tmp_path / "fates.json").read_text(encoding="utf-8"))
    assert fates["Line.at: self.slope * x + 1 => self.slope * x - 1"] == "killed"
    assert fates["Line.at: < 0 => <= 0"] == "survived"  # nobody looks at 0
    assert fates["Line.double: self.slope + self.slope => self.slope - self.slope"] == "killed"
    assert fates["untested: x - 1 => x + 1"] == "untested"
    assert fates["count: done += 1 => done -= 1"] == "timeout"


def test_no_run_with_a_test_that_fails_by_itself(project: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    assert False\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), project, "measure"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "fails without any mutant" in done.stdout + done.stderr
    assert not (tmp_path / "tests.json").exists()
