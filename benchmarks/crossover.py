"""Steps of CG that a dense solve costs: the size at which the default solver changes over.

    python -m benchmarks.crossover

One hypergradient by `Cholesky()`, and by CG of few and of more steps, on one thread and in turns;
least process times, since disturbances only add. The difference of the latter two is what a step
costs, and with it the number of steps that take as long as the dense solve. docs/solvers.md has the
table, and `hypergrad/linear/automatic.py` the limits that were chosen by it.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.provenance import SEED, provenance, write
from benchmarks.timing import interleaved
from hypergrad import CG, Bilevel, Cholesky, Hypergradient, LinearSolver, hypergradient

RESULT = Path(__file__).parent / "results" / "crossover.json"
FEW, MORE = 2, 12
EXAMPLES = 1000
ONE_TASK, MANY_TASKS = (16, 64, 128, 256), ((16, 16), (16, 32), (16, 64), (256, 8), (256, 50))


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossover:
    """One size.

    Attributes:
        kind: the problem's name.
        tasks: number of tasks solved together.
        unknowns: number of unknowns of each task.
        dense: microseconds of a hypergradient by a dense solve.
        step: microseconds of one step of CG.
        beside: microseconds of a hypergradient by CG, beside its steps.
        steps: number of steps of CG that take as long as the dense solve.
    """

    kind: str
    tasks: int
    unknowns: int
    dense: float
    step: float
    beside: float
    steps: float


def quadratic(unknowns: int, tasks: int) -> tuple[Bilevel[Tensor, Tensor], Tensor, Tensor]:
    """``phi'A phi / 2 - phi'theta`` for each task: a product is one matrix times one vector."""
    draw = torch.Generator().manual_seed(SEED)
    batch = () if tasks == 1 else (tasks,)
    root = torch.randn(*batch, unknowns, unknowns, generator=draw, dtype=torch.float64)
    matrix = root @ root.mT / unknowns + torch.eye(unknowns, dtype=torch.float64)
    theta = torch.randn(unknowns, generator=draw, dtype=torch.float64)
    phi = torch.linalg.solve(matrix, theta.expand(*batch, unknowns))

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        bent = (matrix @ phi[..., None])[..., 0] if tasks > 1 else matrix @ phi
        values: Tensor = torch.linalg.vecdot(phi, bent) / 2 - phi @ theta
        return values

    return Bilevel(upper=lambda _, phi: phi.square().sum(-1), lower=lower), theta, phi


def regression(unknowns: int, tasks: int) -> tuple[Bilevel[Tensor, Tensor], Tensor, Tensor]:
    """Ridge regression on many examples: a product is two products with their features."""
    draw = torch.Generator().manual_seed(SEED)
    x = torch.randn(EXAMPLES, unknowns, generator=draw, dtype=torch.float64)
    y = torch.randn(EXAMPLES, generator=draw, dtype=torch.float64)
    theta = torch.zeros(unknowns, dtype=torch.float64)
    phi = torch.linalg.solve(x.mT @ x / EXAMPLES + torch.eye(unknowns), x.mT @ y / EXAMPLES)

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        fit = (x @ phi - y).square().mean() / 2
        return fit + (theta.exp() * phi.square()).sum() / 2

    return Bilevel(upper=lambda _, phi: phi.square().sum(), lower=lower), theta, phi


def crossover(
    make: Callable[[int, int], tuple[Bilevel[Tensor, Tensor], Tensor, Tensor]],
    unknowns: int,
    tasks: int,
    rounds: int,
) -> Crossover:
    """Time one size."""
    problem, theta, phi = make(unknowns, tasks)
    solvers: Sequence[LinearSolver] = (
        Cholesky(),
        CG(rtol=0.0, max_steps=FEW),
        CG(rtol=0.0, max_steps=MORE),
    )

    def by(solver: LinearSolver) -> Callable[[], Hypergradient[Tensor]]:
        return lambda: hypergradient(problem, theta, phi, solver=solver)

    runs = [by(solver) for solver in solvers]
    # a kind of objective is probed at its first hypergradient; small systems need fewer steps
    _, fewer, many = (int(run().certificate.adjoint.steps.max()) for run in runs)
    times = interleaved(runs, rounds=rounds, calls=[3] * len(runs))
    dense, few, more = (min(each) * 1e6 for each in times)
    step = (more - few) / (many - fewer)
    beside = few - fewer * step
    return Crossover(
        kind=str(make.__name__),
        tasks=tasks,
        unknowns=unknowns,
        dense=dense,
        step=step,
        beside=beside,
        steps=(dense - beside) / step,
    )


def shown(found: Iterable[Crossover]) -> Table:
    """The crossover points, for a terminal."""
    table = Table(title="a dense solve against steps of CG")
    for name in ("problem", "tasks", "unknowns", "dense, us", "CG's step, us", "steps"):
        table.add_column(name, justify="left" if name == "problem" else "right")
    for one in found:
        numbers = (f"{value:.0f}" for value in (one.dense, one.step, one.steps))
        table.add_row(one.kind, str(one.tasks), str(one.unknowns), *numbers)
    return table


def main() -> None:
    """Time all sizes and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender")
    parser.add_argument("--out", type=Path, default=RESULT, help="result file")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance()
    sizes = [(quadratic, unknowns, 1) for unknowns in ONE_TASK]
    sizes += [(regression, unknowns, 1) for unknowns in ONE_TASK]
    sizes += [(quadratic, unknowns, tasks) for tasks, unknowns in MANY_TASKS]
    found = [crossover(make, unknowns, tasks, asked.rounds) for make, unknowns, tasks in sizes]
    Console(width=100).print(shown(found))
    write(asked.out, {"provenance": origin, "sizes": [dataclasses.asdict(one) for one in found]})


if __name__ == "__main__":
    main()
