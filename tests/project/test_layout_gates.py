"""The tests of layout and of pages fail for a fault that is planted in a copy of the repository.

`test_gates.py` does the same for the commands of the Makefile.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.project import test_avoided as avoided
from tests.project import test_docs as docs
from tests.project import test_layers as layers

Gate = Callable[[], None]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python files of the repository, once for all tests."""
    folder = tmp_path_factory.mktemp("sources")
    for name in layers.OURS:
        for path in (layers.ROOT / name).rglob("*.py"):
            to = folder / path.relative_to(layers.ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
    return folder


@pytest.mark.parametrize(
    ("gate", "file", "planted"),
    [
        (
            partial(layers.test_arrows_between_packages, "hypergrad"),
            "hypergrad/tree.py",
            "def late():\n    import metalearn.files",
        ),
        (
            partial(layers.test_arrows_between_packages, "metalearn"),
            "metalearn/files.py",
            "from verification import problems",
        ),
        (
            layers.test_arrows_between_the_rooms_of_verification,
            "verification/problems/base.py",
            "from verification import claims",
        ),
        (
            layers.test_hypergrad_imports_torch_and_jaxtyping_only,
            "hypergrad/tree.py",
            "import numpy",
        ),
        (
            layers.test_the_kernel_imports_no_concrete_solver,
            "hypergrad/implicit/nodes.py",
            "from hypergrad.linear.cg import CG",
        ),
        *(
            (layers.test_no_file_is_longer_than_its_one_idea, f"{package}/planted.py", "\n" * 401)
            for package in sorted(layers.OURS)
        ),
        (
            partial(avoided.test_nothing_is_built_on, ("hypergrad",), "while_loop("),
            "hypergrad/tree.py",
            "while_loop(lambda: 0)",
        ),
    ],
)
def test_layout(
    gate: Gate, file: str, planted: str, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (layers, avoided):
        monkeypatch.setattr(module, "ROOT", sources)
    path = sources / file
    sound = path.read_text(encoding="utf-8") if path.exists() else None
    gate()
    try:
        path.write_text(f"{sound or ''}\n{planted}\n", encoding="utf-8")
        with pytest.raises(AssertionError):
            gate()
    finally:
        path.unlink() if sound is None else path.write_text(sound, encoding="utf-8")
    gate()


@pytest.mark.parametrize(
    ("gate", "planted"),
    [
        (docs.test_no_asterisk_of_a_formula_starts_emphasis, "From φ* to φ* it is not far."),
        (docs.test_blocks_say_what_they_are, "```sh\nmake\n```"),
        (docs.test_blocks_say_what_they_are, '```text\n--8<-- "Makefile"\n```'),
        (docs.test_what_a_page_includes_is_there, '```{ .python }\n--8<-- "gone.py"\n```'),
        (
            lambda page: docs.test_the_programs_of_a_page_run_one_after_another(
                page, pytest.MonkeyPatch(), page.parent
            ),
            "```python\nassert False\n```",
        ),
        (lambda _: docs.test_pages_need_no_network(), "![A picture](https://example.org/a.png)"),
        (lambda _: docs.test_pages_need_no_network(), '<img src="a.png">'),
    ],
)
def test_pages(
    gate: Callable[[Path], None], planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # which the programs of a page leave
    page = tmp_path / "page.md"
    monkeypatch.setattr(docs, "DOCS", tmp_path)
    monkeypatch.setattr(docs, "PAGES", [page])
    page.write_text("# A page\n\nWords.\n", encoding="utf-8")
    gate(page)
    page.write_text(f"# A page\n\n{planted}\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        gate(page)


def test_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public name that no page lists, and one that is listed twice."""
    shutil.copytree(docs.DOCS / "api", tmp_path / "api")
    monkeypatch.setattr(docs, "DOCS", tmp_path)
    docs.test_the_reference_lists_every_public_name_once()
    page = tmp_path / "api" / "linear.md"
    sound = page.read_text(encoding="utf-8")
    entry = next(line for line in sound.splitlines() if line.startswith("::: "))
    for planted in (sound.replace(f"{entry}\n", ""), f"{sound}\n{entry}\n"):
        page.write_text(planted, encoding="utf-8")
        with pytest.raises(AssertionError):
            docs.test_the_reference_lists_every_public_name_once()
