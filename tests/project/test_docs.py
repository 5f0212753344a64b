"""The documentation's programs run as they stand, and its reference leaves no public name out."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest
import torch

import hypergrad

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
INCLUDED = re.compile(r'^--8<-- "([^"]+)"$', flags=re.MULTILINE)
# Programs, included files, and all the rest (output, formulas, commands): no other kind of block.
# A file is included in a block of its own kind, which formatters of Python in Markdown don't touch.
PROGRAM, FILE, TEXT = "python", "{ .python }", "text"


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def programs(page: Path) -> list[str]:
    """What a page asks to be run; the files that it includes have tests of their own."""
    return [code for kind, code in blocks(page) if kind == PROGRAM]


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", [page for page in PAGES if programs(page)], ids=name)
def test_the_programs_of_a_page_run_one_after_another(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    # A namespace that is a module's, for what looks its own module up.
    names: dict[str, object] = {"__name__": "__main__"}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.manual_seed(0)
        for index, program in enumerate(programs(page)):
            exec(compile(program, f"{name(page)}, program {index}", "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_asterisk_of_a_formula_starts_emphasis(page: Path) -> None:
    r"""Outside code a minimiser is written φ\*: of two bare ones the text between is italic."""
    prose = re.sub(r"`[^`]*`", "", BLOCK.sub("", page.read_text(encoding="utf-8")))
    for paragraph in re.split(r"\n\n|\|", prose):
        assert len(re.findall(r"(?<![\w\\])[φvb]\*(?!\*)", paragraph)) < 2, paragraph


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_say_what_they_are(page: Path) -> None:
    kinds = {kind for kind, _ in blocks(page)}
    assert kinds <= {PROGRAM, FILE, TEXT}
    for kind, code in blocks(page):
        assert bool(INCLUDED.search(code)) == (kind == FILE)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_what_a_page_includes_is_there(page: Path) -> None:
    for path in INCLUDED.findall(page.read_text(encoding="utf-8")):
        assert (ROOT / path).is_file(), f"{name(page)} includes {path}"


def public(module: ModuleType) -> set[str]:
    """A module's public names, and in place of a namespace among them the names in it."""
    own = {name for name, value in vars(module).items() if _made_in(value, module)}
    found: set[str] = set()
    for name in getattr(module, "__all__", own):
        value = getattr(module, name)
        found |= public(value) if isinstance(value, ModuleType) else {name}
    return found


def _made_in(value: object, module: ModuleType) -> bool:
    name = getattr(value, "__name__", "_")
    return getattr(value, "__module__", None) == module.__name__ and not name.startswith("_")


def test_the_reference_lists_every_public_name_once() -> None:
    listed = [
        path.rsplit(".", 1)[-1]
        for page in sorted((DOCS / "api").glob("*.md"))
        for path in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    ]
    assert public(hypergrad) <= set(listed)
    assert len(listed) == len(set(listed))


def test_pages_need_no_network() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert not re.search(r"!\[[^\]]*\]\(https?:|<(script|link|img|iframe)\b", text)


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    """Links, anchors and included files resolve: mkdocs counts any that don't as an error."""
    built = subprocess.run(
        # without --quiet, which keeps warnings from being counted
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    loaded = [
        f"{page.name}: {address}"
        for page in tmp_path.rglob("*.html")
        for address in re.findall(r'(?:src|<link[^>]*href)="(https?://[^"]+)"', page.read_text())
    ]
    assert not loaded
