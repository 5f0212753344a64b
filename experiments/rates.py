"""Learning rates of a comparison: for each method the best of a few, by validation.

A rate that was tuned for one method would put the others at a disadvantage.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

import hypergrad.errors
from metalearn.cli.compare import ensure
from metalearn.config.choices import MethodName
from metalearn.config.train import TrainConfig
from metalearn.errors import NotFiniteError, RunError
from metalearn.report.tables import Rows
from metalearn.runs.folder import Run
from metalearn.runs.records import Result

RATES: Final = (5e-4, 2e-3, 8e-3)
OWN: Final[Mapping[MethodName, Sequence[float]]] = {"reptile": (0.25, 0.5, 1.0)}
"""Rates of methods whose upper optimiser isn't Adam: Reptile's step goes that share of the way."""


def search(
    folder: Path,
    asked: TrainConfig,
    *,
    methods: Sequence[MethodName],
    seeds: Sequence[int],
    rates: Sequence[float] = RATES,
    console: Console,
) -> tuple[dict[MethodName, float], Rows]:
    """Train each method for half the steps at each rate; finished runs are kept.

    Args:
        folder: Folder for the runs.
        asked: Settings of the comparison.
        methods: Methods to find a rate for.
        seeds: Seeds of the comparison. The search uses the first number that is not among them, so
            that no reported run chooses its own rate.
        rates: Learning rates to choose from, for methods without rates in `OWN`.
        console: Where progress is printed.

    Returns:
        Best rate of each method by its last validation, and a table of all rates.

    Raises:
        MetalearnError: a run can't be made, or the folder holds runs with other settings.
        Stopped: by a signal; the same call goes on.
        hypergrad.errors.HypergradError: a lower level, or the adjoint on it, is not finite.
    """
    seed = next(number for number in itertools.count() if number not in seeds)
    short = asked.replace(
        seed=seed,
        steps=max(1, asked.optimisation.steps // 2),
        test_episodes=2,  # not looked at
        hypergradient_error=False,
    )
    best: dict[MethodName, float] = {}
    tried = {method: tuple(OWN.get(method, rates)) for method in methods}
    columns = sorted({rate for own in tried.values() for rate in own})
    rows = []
    made: dict[str, None] = {}  # in order
    for method in methods:
        found: dict[float, float] = {}
        for rate in tried[method]:
            run = folder / f"{method}-{rate:g}"
            own = short.replace(run=run, method=method, learning_rate=rate)
            try:
                ensure(own, console=console)
            except (NotFiniteError, hypergrad.errors.NotFiniteError) as error:
                console.print(f"{method} diverges at {rate:g}: {error}", markup=False)
                continue
            # the last, not the best: that is the luckiest of many
            found[rate] = Run(run).metrics()[-1]["validation"]
            made |= {_origin(Run(run).result()): None}
        if not found:
            raise RunError(f"{method} diverges at each of {list(tried[method])}: give lower ones.")
        best[method] = max(found, key=lambda rate: found[rate])
        missing = {rate: "diverged" if rate in tried[method] else "–" for rate in columns}
        cells = [f"{100 * found[rate]:.2f}" if rate in found else missing[rate] for rate in columns]
        rows.append([method, *cells, f"{best[method]:g}"])
    title = (
        f"Validation accuracy (%) by learning rate: {short.data.name}, {short.train}, "
        f"seed {seed}, {short.optimisation.steps} steps, "
        f"{short.evaluation.validation_episodes} validation episodes"
    )
    return best, Rows(
        title=title,
        columns=["method", *(f"{rate:g}" for rate in columns), "best"],
        rows=rows,
        notes=[
            "best: the rate of the comparison's runs, which start from other seeds",
            *made,
        ],
    )


def _origin(result: Result) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    changed = " (changed)" if result.dirty else ""
    return f"commit {result.commit}{changed}, {versions}, {result.device}"
