"""Figures of a report as inline SVG, drawn from what report.json holds and from nothing else."""

import io
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

COLOURS = ("#1b4f8f", "#b3541e", "#3b7d3b", "#7b3f8c", "#8a6d1b", "#444444")
LINES: dict[Any, Any] = {
    "svg.hashsalt": "verification",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
}


def number(value: float | str) -> float:
    """A number of report.json, where infinite ones are text."""
    return float(value)


def curves(series: dict[str, Any]) -> str:
    """Measured curves with what theory says of them, log-log."""
    x = [number(value) for value in series["x"]]
    with matplotlib.rc_context(LINES):
        figure = Figure(figsize=(6.2, 4.0), layout="constrained")
        axes = figure.subplots()
        drawn = set[tuple[float, ...]]()
        for index, (name, values) in enumerate(series["measured"].items()):
            colour = COLOURS[index % len(COLOURS)]
            for key, style, what in (("bounds", "--", "bound"), ("values", "-", "theory")):
                line = tuple(number(value) for value in series[key].get(name, ()))
                if line and line not in drawn:
                    # one line may bound several curves
                    alone = len(series[key]) == 1 or len(set(map(tuple, series[key].values()))) > 1
                    label = f"{name}: {what}" if alone else what
                    axes.plot(x, line, style, color=colour, lw=1.3, label=label)
                    drawn.add(line)
            label = f"{name}: measured"
            found = [number(value) for value in values]
            axes.plot(x, found, "o", color=colour, ms=4, label=label)
        axes.set_yscale("log")
        # far below all that is drawn, the allowance would only flatten the curves
        if series["slack"] > axes.get_ylim()[0] / 100:
            label = "allowance for rounding"
            axes.axhline(series["slack"], color="#888888", lw=1, ls=":", label=label)
        if min(x) == 0:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_xlim(left=-0.1)
        elif max(x) > 1:  # else shares, which are spread evenly
            axes.set_xscale("log")
            if max(x) < 10 * min(x):  # less than a decade: a tick for each point
                axes.set_xticks(x, [f"{value:g}" for value in x])
                axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(series["x_label"])
        axes.set_ylabel(series["y_label"])
        figure.legend(fontsize=8, loc="outside lower center", ncols=3)
        return _svg(figure)


def margins(claims: list[dict[str, Any]]) -> str:
    """Error/tolerance of every claim, worst and median over its seeds; 1 is where it fails."""
    least = 1e-8  # where zeros are drawn: they have no logarithm
    names = [claim["name"] for claim in claims][::-1]
    with matplotlib.rc_context(LINES):
        figure = Figure(figsize=(6.2, 1.0 + 0.28 * len(names)), layout="constrained")
        axes = figure.subplots()
        for key, marker, label in (
            ("median_ratio", "|", "median over the seeds"),
            ("ratio", "o", "worst seed"),
        ):
            values = [min(max(number(claim[key]), least), 1e3) for claim in claims][::-1]
            axes.plot(values, range(len(names)), marker, color=COLOURS[0], label=label)
        axes.axvline(1.0, color="#b00020", lw=1.2, label="fails beyond")
        axes.set_xscale("log")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(least / 2, 10)
        axes.set_xlabel(f"error/tolerance (0 is drawn at {least:g})")
        figure.legend(fontsize=8, loc="outside upper center", ncols=3)
        axes.set_ylim(-0.6, len(names) - 0.4)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :]
