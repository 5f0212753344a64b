"""The direction of imports: hypergrad <- metalearn, hypergrad <- verification, and inside them."""

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

# Rooms of verification, and the rooms that each may import.
ROOMS: dict[str, set[str]] = {
    "problems": set(),
    "subjects": set(),
    "oracles": {"problems"},
    "claims": {"problems", "oracles", "subjects"},
    "suite": {"problems", "subjects", "claims"},
    "report": {"problems", "oracles", "subjects", "claims", "suite"},
    "__main__": {"suite", "report"},
}


def imported(text: str) -> set[str]:
    """Whole names of what a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imports(package: str) -> dict[str, set[str]]:
    """Top-level modules that each file of a package imports, wherever in the file."""
    return {
        str(path.relative_to(ROOT)): {
            name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))
        }
        for path in sorted((ROOT / package).rglob("*.py"))
    }


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_arrows_between_packages(package: str) -> None:
    files = imports(package)
    assert len(files) > 3
    for path, tops in files.items():
        assert tops & OURS <= MAY_IMPORT[package], path


def private(package: str, text: str) -> set[str]:
    """Private names of other packages of ours that a file of this package imports."""
    parts = {name: name.split(".") for name in imported(text)}
    return {
        name
        for name, (top, *rest) in parts.items()
        if top in OURS - {package}
        and any(part.startswith("_") and not part.startswith("__") for part in rest)
    }


@pytest.mark.parametrize("package", sorted(OURS - {"tests"}))
def test_no_private_name_is_imported_across_packages(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        assert not private(package, path.read_text(encoding="utf-8")), path


def test_a_private_name_from_elsewhere_is_noticed() -> None:
    assert private("metalearn", "from hypergrad.tree import _dense") == {"hypergrad.tree._dense"}
    assert private("metalearn", "import hypergrad._kept.tree") == {"hypergrad._kept.tree"}
    assert not private("hypergrad", "from hypergrad.tree import _dense, leaves")


def rooms(path: Path, text: str) -> tuple[str, set[str]]:
    """The room of a file of verification, and the other rooms that it imports."""
    own = path.relative_to(ROOT / "verification").parts[0].removesuffix(".py")
    ours = {name.split(".")[1] for name in imported(text) if name.startswith("verification.")}
    return own, ours - {own}


def test_arrows_between_the_rooms_of_verification() -> None:
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "verification").rglob("*.py")):
        own, others = rooms(path, path.read_text(encoding="utf-8"))
        found.setdefault(own, set()).update(others)
    assert found.pop("__init__") == set()
    # no arrow that is not listed, and none that is listed and gone
    assert found == ROOMS


@pytest.mark.parametrize(
    "line",
    [
        "from verification import claims",
        "import verification.suite.runner",
        "def late():\n    from verification.report.page import html",
    ],
)
def test_an_arrow_upwards_is_noticed(line: str) -> None:
    own, others = rooms(ROOT / "verification" / "problems" / "base.py", line)
    assert not others <= ROOMS[own]


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
    for package in sorted(OURS):
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
