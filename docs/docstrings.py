"""Turns the docstrings' roles (``:class:`CG```) into links, and keeps ``phi*`` from being markup.

An extension of mkdocstrings' parser; see mkdocs.yml. What can be linked to is what the pages under
``docs/api`` list.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from griffe import Extension, Object

API = Path(__file__).parent / "api"
LISTED = {
    path.rsplit(".", 1)[-1]: path
    for page in sorted(API.glob("*.md"))
    for path in re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
}

ROLE = re.compile(r":(?:class|func|meth|attr|data|exc|mod):`([^`]+)`")
CODE = re.compile(r"(``.*?``|`[^`]*`|\[`[^`]*`\]\[[^\]]*\])", flags=re.DOTALL)
# An asterisk that is no emphasis of a word: *Proof.* is.
ASTERISK = re.compile(r"(?<!\.)\*(?![A-Z][a-z]+\.\*)")
# A displayed formula is indented, and Markdown's code already.
FORMULA = re.compile(r"(?<=\n\n)( {4,})``([^`]+)``([,.]?)$", flags=re.MULTILINE)


def markdown(text: str) -> str:
    """The docstring as Markdown."""
    text = re.sub(r"^[ \t]*::[ \t]*\n", "", text, flags=re.MULTILINE)
    text = FORMULA.sub(r"\1\2\3", text)
    text = ROLE.sub(_link, text)
    parts = CODE.split(text)
    return "".join(part if index % 2 else _plain(part) for index, part in enumerate(parts))


def _link(role: re.Match[str]) -> str:
    name = role[1].lstrip("~.")
    path = LISTED.get(name)
    return f"[`{name}`][{path}]" if path else f"`{name}`"


def _plain(text: str) -> str:
    """Text outside code: an asterisk in it means a minimiser, ``[]`` the end of a proof."""
    lines = text.split("\n")
    for index, line in enumerate(lines):
        if not line.startswith("    ") or re.match(r"    \s*\w+: ", line):
            lines[index] = ASTERISK.sub(r"\*", line).replace(" []", " ∎")
    return "\n".join(lines)


class Docstrings(Extension):
    """Applied to every object's docstring once it is known."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring, if there is one."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value)
