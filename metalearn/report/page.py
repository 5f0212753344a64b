"""One self-contained HTML page of answers: each picture, its probabilities, its nearest support."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Final

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """A labelled picture that is shown beside an answer.

    Attributes:
        pixels: the picture.
        name: its file.
        label: its class.
    """

    pixels: UInt8[np.ndarray, "H W C"]
    name: str
    label: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """The answer to one picture.

    Attributes:
        pixels: the picture.
        name: its file.
        probabilities: classes with their probabilities, most probable first.
        given: False where the answer is withheld.
        nearest: labelled pictures with the nearest features, nearest first.
    """

    pixels: UInt8[np.ndarray, "H W C"]
    name: str
    probabilities: Sequence[tuple[str, float]]
    given: bool
    nearest: Sequence[Shown]


_SHOWN: Final = 5  # classes whose probability is drawn

# The policy keeps whatever a file's name might hold from loading or running anything.
_PAGE: Final = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; background: Canvas; font: 15px/1.45 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } .note, figcaption, th { color: #777; font-size: .85rem; }
table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: normal; padding: .3rem .6rem; }
td { border-top: 1px solid #8884; padding: .6rem; vertical-align: top; }
img { width: 84px; height: 84px; image-rendering: pixelated; border: 1px solid #8884; }
.near img { width: 56px; height: 56px; } .near figure { display: inline-block; }
figure { margin: 0 .4rem 0 0; } figcaption { max-width: 12rem; overflow-wrap: anywhere; }
.near figcaption { max-width: 58px; }
.bar { display: grid; grid-template-columns: 9rem 1fr 3.5rem; gap: .5rem; align-items: center; }
.bar b, .bar span { overflow-wrap: anywhere; font-weight: normal; }
.bar span:last-child { text-align: right; }
.bar i { height: .6rem; background: #4460c8; display: block; }
@media (max-width: 40rem) { .bar { grid-template-columns: 5rem minmax(2.5rem, 1fr) 3.5rem; } }
.bar:first-of-type b { font-weight: bold; } .withheld { color: #b55a00; }
</style>
<h1>$title</h1>
$notes
<table>
<tr><th>picture<th>probabilities<th>nearest labelled pictures
$rows
</table>
$left
</html>
""")


def page(
    title: str, notes: Sequence[str], answers: Sequence[Answer], left_out: Sequence[tuple[str, str]]
) -> str:
    """The page as HTML, in which no text but its own is markup.

    Args:
        title: heading.
        notes: notes before the answers, one paragraph each.
        answers: a row of the page each.
        left_out: files that were not used, with their reasons.
    """
    left = "".join(f"<li>{escape(name)}: {escape(reason)}" for name, reason in left_out)
    return _PAGE.substitute(
        title=escape(title),
        notes="\n".join(f'<p class="note">{escape(note)}</p>' for note in notes),
        rows="\n".join(map(_row, answers)),
        left=f"<h2>Left out</h2>\n<ul>{left}</ul>" if left else "",
    )


def _row(answer: Answer) -> str:
    bars = "\n".join(
        f'<div class="bar"><b>{escape(label)}</b><span><i style="width:{100 * p:.1f}%"></i></span>'
        f"<span>{100 * p:.1f} %</span></div>"
        for label, p in answer.probabilities[:_SHOWN]
    )
    more = len(answer.probabilities) - _SHOWN
    rest = f'<p class="note">and {more} less probable</p>' if more > 0 else ""
    withheld = "" if answer.given else '<p class="withheld">no answer: too improbable</p>'
    near = "".join(_figure(shown.pixels, shown.label, shown.name) for shown in answer.nearest)
    return (
        f"<tr><td>{_figure(answer.pixels, answer.name, answer.name)}"
        f'<td>{withheld}{bars}{rest}<td class="near">{near}'
    )


def _figure(pixels: UInt8[np.ndarray, "H W C"], caption: str, name: str) -> str:
    content = io.BytesIO()
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image.save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{escape(name)}" '
        f'title="{escape(name)}"><figcaption>{escape(caption)}</figcaption></figure>'
    )
