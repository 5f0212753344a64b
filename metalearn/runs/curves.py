"""The curves of one run, drawn from its files alone."""

from __future__ import annotations

import io
import math
from typing import Any

from matplotlib.figure import Figure

from metalearn.files import write_atomically
from metalearn.runs.folder import CURVES, Run


def draw_curves(run: Run) -> None:
    """Write curves.png: loss, validation accuracy and certificate against upper steps.

    Raises:
        RunError: the run did not finish, or its files are damaged.
    """
    metrics, result = run.metrics(), run.result()
    steps = [m["step"] for m in metrics]

    def series(name: str) -> list[Any]:
        return [m.get(name, math.nan) for m in metrics]  # without a step there is no loss

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    loss, score, evidence = figure.subplots(1, 3)
    loss.plot(steps, series("loss"), marker=".", color="C0")
    loss.set(title="training", ylabel="the method's loss (nats for cross-entropy)", ylim=(0, None))

    mean = [100 * value for value in series("validation")]
    half = [100 * value for value in series("validation_interval")]
    score.errorbar(steps, mean, half, marker=".", capsize=2, color="C0", label="validation")
    test, around = 100 * result.accuracy, 100 * result.interval
    score.axhspan(test - around, test + around, color="C1", alpha=0.3)
    score.axhline(test, color="C1", label=f"test {test:.2f} ± {around:.2f} %")
    score.axvline(result.best_step, color="0.6", linestyle=":", label="weights kept")
    score.set(title="accuracy", ylabel="accuracy (%), 95 % interval")
    score.legend(loc="lower right")

    evidence.set(title="certificate of the hypergradient", ylabel="since the last point")
    if result.certificate is None:
        evidence.text(
            0.5, 0.5, "no adjoint system is solved", transform=evidence.transAxes, ha="center"
        )
    else:
        evidence.semilogy(steps, series("stationarity"), marker=".", label="|∂g/∂φ|, worst task")
        evidence.semilogy(steps, series("residual"), marker=".", label="|b − Hv| / |b|, worst task")
        evidence.legend(loc="best")
    for axes in (loss, score, evidence):
        axes.set_xlabel("upper steps")
        axes.grid(alpha=0.3)
    protocol = result.protocol
    figure.suptitle(
        f"{protocol.data}, {protocol.shape}, "
        f"normalisation {result.normalisation}, method {result.method}, "
        f"l2 = {result.l2}, seed {result.seed}",
        fontsize="medium",
    )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(run.folder / CURVES, content.getvalue())
