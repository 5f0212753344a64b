"""The table and the figure of the guide, from the result file alone."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from verification.report.figures import COLOURS, LINES

FIGURE = Path(__file__).parents[2] / "docs" / "guides" / "bilevel.svg"


def rows(record: dict[str, Any]) -> Iterator[str]:
    """The table's rows: the gap's median and quartiles within an eighth and all of the budget."""
    for name, problem in record["problems"].items():
        for method, found in problem["methods"].items():
            alone = len(found["ends"]) == 1
            sizes = f"{found['step_size']:g}, {found['upper_step_size']:g}"
            if alone:  # its lower solver takes no step size
                sizes = f"{found['upper_step_size']:g}"
            gaps = [
                "–" if each is None else gap(each, alone=alone)
                for each in (within(found, problem["budget"] / part) for part in (8, 1))
            ]
            errors = found.get("test_errors")
            test = f"{100 * median(errors):.1f}" if errors else ""
            yield f"| {name} | {method} | {sizes} | {' | '.join(gaps)} | {test} |"


def within(found: dict[str, Any], limit: float) -> list[float] | None:
    """The quartiles at the last checkpoint within so many computations, if there is one."""
    places = [place for place, mark in enumerate(found["computations"]) if mark <= limit]
    return found["quartiles"][places[-1]] if places else None


def gap(quartiles: list[float], *, alone: bool) -> str:
    """The median with the quartiles, or one number where there was one run."""
    low, middle, high = (f"{each:.1e}" for each in quartiles)
    return middle if alone else f"{middle} ({low} to {high})"


def figure(record: dict[str, Any]) -> str:
    """A panel for each problem: medians of the gap as lines, quartiles as shades, as SVG."""
    with mpl.rc_context({**LINES, "svg.hashsalt": "bilevel"}):
        drawn = Figure(figsize=(11, 4.2), layout="constrained")
        panels = drawn.subplots(1, len(record["problems"]), squeeze=False)[0]
        for axes, (name, problem) in zip(panels, record["problems"].items(), strict=True):
            for colour, (method, found) in zip(COLOURS, problem["methods"].items(), strict=True):
                low, middle, high = zip(*found["quartiles"], strict=True)
                style = "--" if method.startswith("Implicit") else "-"
                along = found["computations"]
                axes.plot(along, middle, style, color=colour, lw=1.4, label=method)
                axes.fill_between(along, low, high, color=colour, alpha=0.2, linewidth=0)
            axes.axhline(problem["start"], color="#888888", lw=0.8, ls=":")
            axes.set(xscale="log", yscale="log", title=name)
            axes.set_xlabel("gradients and products of one example")
        panels[0].set_ylabel("h(θ) − least value known (dotted: at the start)")
        handles, labels = panels[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=6, fontsize=9)
        text = io.StringIO()
        drawn.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
