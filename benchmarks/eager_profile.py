"""Profile of one small hypergradient, beside the least time that torch alone could take.

    python -m benchmarks.eager_profile --out benchmarks/results/eager_profile.json

The problems of benchmarks/peers.py at their minimisers, in float64 on one thread, by the default
solver. Clocks stand around the parts, each of which is without the parts within it. Beside them are
counts, and the time of the bare calls: the same objectives, derivatives and solve in torch's own
functions, without a check, a residual, a status or a certificate. What the bare calls take is as
little as eager torch can take by this algorithm.
"""

from __future__ import annotations

import argparse
import dataclasses
import pkgutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.costs import calls
from benchmarks.peer_cases import CASES, Case
from benchmarks.peer_entries import RTOL
from benchmarks.provenance import provenance, write
from benchmarks.timing import interleaved, keep_pages, ratios
from hypergrad import CG, Bilevel, Cholesky, hypergradient
from tests.metalearn.measure import Convolutions

# part: functions that it takes, by the modules that call them
PARTS: dict[str, tuple[str, ...]] = {
    "objectives": (),
    "autograd": ("engine._engine_run_backward",),
    "solver": ("linear.cholesky.Cholesky.solve", "linear.cg.CG.solve", "linear.cholesky.dense"),
    "evidence": (
        "linear.halves.verified",
        "linear.cholesky.direct",
        "implicit.pullback.newton_step",
        "implicit.pullback.norm",
        "implicit.pullback.dot",
        "implicit.certificate.Certificate.__init__",
    ),
    "checks": (
        "implicit.pullback.check_tree",
        "implicit.pullback.check_same_kind",
        "implicit.pullback.evaluate",
        "implicit.pullback.require_finite",
        "implicit.pullback.raise_where",
        "implicit.linearise.Linearisation.__init__",
    ),
}
REST = "rest"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One problem.

    Attributes:
        name: name of the problem.
        solver: name of the default solver here.
        frames: calls of hypergrad's own functions.
        operations: operations of torch, those within passes of its engine included.
        passes: passes of autograd's engine.
        shares: shares of the time, by part.
        bare: time of the bare calls over that of the hypergradient; median, and quartiles.
        microseconds: time of the hypergradient, for scale.
    """

    name: str
    solver: str
    frames: int
    operations: int
    passes: int
    shares: dict[str, float]
    bare: tuple[float, float, float]
    microseconds: float


class Clock:
    """Times of parts, without those of parts within them."""

    def __init__(self) -> None:
        self.spent: defaultdict[str, float] = defaultdict(float)
        self._within = [0.0]

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function, whose time is added to the part's."""

        def timed(*arguments: Any, **named: Any) -> Any:
            self._within.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                took = time.perf_counter() - began
                self.spent[part] += took - self._within.pop()
                self._within[-1] += took

        return timed

    @contextmanager
    def standing(self) -> Iterator[None]:
        """Clocks around all parts of hypergrad."""
        with ExitStack() as stack:
            for part, names in PARTS.items():
                for name in names:
                    honest = pkgutil.resolve_name(f"hypergrad.{name}")
                    stack.enter_context(patch(f"hypergrad.{name}", self.around(honest, part)))
            yield


def shares(case: Case, rounds: int) -> dict[str, float]:
    """The median shares of the parts; other processes disturb some rounds only."""
    clock = Clock()
    problem: Bilevel[Tensor, Tensor] = Bilevel(
        upper=clock.around(case.upper, "objectives"), lower=clock.around(case.lower, "objectives")
    )
    found: dict[str, list[float]] = {part: [] for part in (*PARTS, REST)}
    with clock.standing():
        for turn in range(rounds + 1):  # the first is probed, and not counted
            clock.spent.clear()
            began = time.perf_counter()
            hypergradient(problem, case.theta, case.phi)
            whole = time.perf_counter() - began
            if turn:
                for part in PARTS:
                    found[part].append(clock.spent[part] / whole)
                found[REST].append(1 - sum(clock.spent.values()) / whole)
    return {part: statistics.median(each) for part, each in found.items()}


def bare(case: Case, *, dense: bool) -> Tensor:
    """The hypergradient by torch's functions alone, by the same algorithm."""
    theta, phi = (leaf.detach().requires_grad_() for leaf in (case.theta, case.phi))
    value, lower = case.upper(theta, phi), case.lower(theta, phi)
    direct, cotangent = torch.autograd.grad(value, (theta, phi), materialize_grads=True)
    (slope,) = torch.autograd.grad(lower, phi, create_graph=True)

    def product(vector: Tensor) -> Tensor:
        return torch.autograd.grad(slope, phi, vector, retain_graph=True)[0]

    with torch.no_grad():
        if dense:
            n = phi.numel()
            units = torch.eye(n, dtype=phi.dtype).view(n, *phi.shape)
            # is_grads_batched takes longer
            factor = torch.linalg.cholesky(torch.vmap(product)(units).view(n, n))
            v = torch.cholesky_solve(cotangent.reshape(n, 1), factor).view_as(phi)
        else:
            v = _conjugate_gradients(product, cotangent)
    (crossed,) = torch.autograd.grad(slope, theta, v)
    return direct - crossed


def _conjugate_gradients(product: Callable[[Tensor], Tensor], rhs: Tensor) -> Tensor:
    """Algorithm 2 with nothing beside its recurrence."""
    x, r, p = torch.zeros_like(rhs), rhs.clone(), rhs.clone()
    rho = float(r.flatten().dot(r.flatten()))
    goal = RTOL**2 * rho
    while rho > goal:
        image = product(p)
        alpha = rho / float(p.flatten().dot(image.flatten()))
        x.add_(p, alpha=alpha)
        r.sub_(image, alpha=alpha)
        old, rho = rho, float(r.flatten().dot(r.flatten()))
        p = torch.add(r, p, alpha=rho / old)
    return x


def profile(case: Case, rounds: int) -> Profile:
    """Count and time one problem."""
    problem: Bilevel[Tensor, Tensor] = Bilevel(upper=case.upper, lower=case.lower)

    def run() -> object:
        return hypergradient(problem, case.theta, case.phi)

    solver = hypergradient(problem, case.theta, case.phi).certificate.solver
    assert solver in (CG(rtol=RTOL), Cholesky())  # what the bare calls do, too
    dense = isinstance(solver, Cholesky)
    assert case.error(bare(case, dense=dense)) < 10 * RTOL
    counted = calls(run)
    with Convolutions() as done:
        run()
    times = interleaved([run, lambda: bare(case, dense=dense)], rounds=rounds, calls=[10, 10])
    whole, alone = ratios(times)
    return Profile(
        name=case.name,
        solver=type(solver).__name__,
        frames=counted.frames,
        operations=done.operations,
        passes=counted.autograd,
        shares=shares(case, 10 * rounds),
        bare=(alone.median, alone.low, alone.high),
        microseconds=whole.seconds * 1e6,
    )


def table(found: list[Profile]) -> Table:
    """The profiles, for a terminal."""
    made = Table(title="one hypergradient by the default solver")
    counts = ("frames", "operations", "passes")
    columns = ("problem", "solver", "us", *counts, *PARTS, REST, "bare")
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index > 1 else "left")
    for one in found:
        numbers = [one.microseconds, *(getattr(one, name) for name in counts)]
        parts = [f"{share:.0%}" for share in (*one.shares.values(), one.bare[0])]
        made.add_row(one.name, one.solver, *(f"{number:.0f}" for number in numbers), *parts)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=21, help="turns of each contender")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    origin = provenance()
    found = [profile(CASES[name](), asked.rounds) for name in asked.cases]
    Console(width=140).print(table(found))
    if asked.out is not None:
        problems = [dataclasses.asdict(one) for one in found]
        write(asked.out, {"provenance": origin, "rounds": asked.rounds, "problems": problems})


if __name__ == "__main__":
    main()
