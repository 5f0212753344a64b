"""The direction of imports: hypergrad <- metalearn, hypergrad <- verification, no other arrow."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"hypergrad", "metalearn", "verification", "tests", "benchmarks", "examples", "experiments"}
MAY_IMPORT = {
    "hypergrad": {"hypergrad"},
    "metalearn": {"metalearn", "hypergrad"},
    "verification": {"verification", "hypergrad"},
}


def imports(package: str) -> dict[str, set[str]]:
    """Top-level modules that each file of a package imports, wherever in the file."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        tops: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                tops.add(node.module.split(".")[0])
        found[str(path.relative_to(ROOT))] = tops
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages(package: str) -> None:
    files = imports(package)
    assert len(files) > 3
    for path, tops in files.items():
        assert tops & OURS <= MAY_IMPORT[package], path


def test_hypergrad_imports_torch_and_jaxtyping_only() -> None:
    for path, tops in imports("hypergrad").items():
        assert tops - set(sys.stdlib_module_names) <= {"hypergrad", "torch", "jaxtyping"}, path


def test_the_kernel_imports_no_concrete_solver() -> None:
    concrete = {"adjoints", "forward", "argmin", "penalty", "adaptive", "warm"}
    for folder in ("linear", "lower"):
        concrete |= {path.stem for path in (ROOT / "hypergrad" / folder).glob("*.py")}
    # the protocol of a solver, its operator and vectors, the choice of a default, and the call of
    # whichever was given: no solver
    concrete -= {"__init__", "solution", "operator", "vectors", "automatic", "halves", "minimum"}
    assert len(concrete) > 15
    kernel = [ROOT / "hypergrad" / name for name in ("tree.py", "objective.py")]
    kernel += sorted((ROOT / "hypergrad" / "implicit").glob("*.py"))
    assert len(kernel) > 6
    for path in kernel:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                assert node.module.split(".")[-1] not in concrete, path


def test_no_file_is_longer_than_its_one_idea() -> None:
    for package in (*MAY_IMPORT, "tests", "benchmarks", "examples"):
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
