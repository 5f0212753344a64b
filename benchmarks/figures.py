"""The figures that the gate watches: small problems, counted; and one step's time over its limit.

All but the ratios of time are integers that do not depend on the machine, only on the code and on
the version of torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Literal, TypeAlias

import torch
from torch import Tensor

from benchmarks.costs import Cost, calls, cost
from benchmarks.fewshot import METHODS, Setting, Step, backbone_pass, method, takes_steps
from benchmarks.imports import modules
from benchmarks.provenance import SEED
from benchmarks.timing import interleaved, ratios
from benchmarks.vectors import measured
from hypergrad import CG, Bilevel, hypergradient
from metalearn.memory import LiveBytes
from metalearn.methods import Method
from tests.metalearn.measure import Convolutions

Kind: TypeAlias = Literal["count", "bytes", "operations", "time"]


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One number that should not rise.

    Attributes:
        value: the number.
        kind: unit of the figure; the gate has a margin for each kind.
    """

    value: float
    kind: Kind


SMALL: Final = Setting(name="small", filters=16, side=16, tasks=4, shot=1, query=1)
# Here the backbone takes most of the time, as in training, so that the ratio says little about how
# this machine's arithmetic compares with its interpreter.
TIMED: Final = Setting(name="timed", filters=32, side=32, tasks=8)
FEW, MORE = 2, 6  # K of the two runs that a slope is taken from
LARGE: Final = 10_000  # unknowns, beside which numbers are nothing
NETWORK: Final = (1000, 300, 10)  # widths of a network whose vectors are counted
STEPS: Final = 20  # K = N of the timed steps
ROUNDS: Final = 15
# Not the one that solves to round-off: how many steps that takes is decided by rounding, and so by
# the machine.
COUNTED: Final = tuple(name for name in METHODS if name != "memory-reduced-exact")
TIMED_METHODS: Final = ("memory-reduced", "itd-bio", "r2d2")


def counted(methods: Iterable[str] = COUNTED) -> dict[str, Figure]:
    """The figures of these methods' steps that are the same on every machine."""
    backbone, alone = backbone_pass(SMALL)
    alone()
    limit = cost(alone, [*backbone.parameters(), SMALL.episodes().images])
    found: dict[str, Figure] = {}
    for name in methods:
        found |= {f"{name}: {what}": figure for what, figure in _of_method(name, limit)}
    return found


def _of_method(name: str, limit: Cost) -> Iterator[tuple[str, Figure]]:
    few, more = (_step_cost(method(name, steps)) for steps in (FEW, MORE))
    (step, spent), at = more, f" at K = {MORE}" if takes_steps(name) else ""
    if at:
        for what in ("peak_bytes", "saved_bytes"):
            slope = (getattr(spent, what) - getattr(few[1], what)) / (MORE - FEW)
            label = what.replace("_", " ")
            yield f"{label} that a lower step adds", Figure(slope, "bytes")
    yield f"peak bytes{at}", Figure(spent.peak_bytes, "bytes")
    yield f"saved bytes{at}", Figure(spent.saved_bytes, "bytes")
    yield f"convolutions called{at}", Figure(spent.convolutions, "count")
    passes = (spent.forward + spent.backward) / (limit.forward + limit.backward)
    yield f"passes of the backbone{at}", Figure(passes, "count")
    yield f"operations{at}", Figure(spent.operations, "operations")
    if step.certificates:
        yield f"Hessian products{at}", Figure(step.products(), "count")
    _, chunked = _step_cost(method(name, MORE), tasks_per_chunk=1)
    yield f"peak bytes{at}, one task at a time", Figure(chunked.peak_bytes, "bytes")


def _step_cost(subject: Method, tasks_per_chunk: int | None = None) -> tuple[Step, Cost]:
    step = Step(subject, SMALL, tasks_per_chunk=tasks_per_chunk)
    step()
    return step, cost(step, [*step.parameters(), step.episodes.images])


def generic() -> dict[str, Figure]:
    """A hypergradient of values alone: its calls, and one step of CG from two numbers of steps."""
    size, few, more = 40, 5, 15
    draw = torch.Generator().manual_seed(SEED)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
    matrix = (basis * torch.logspace(0, -2, size, dtype=torch.float64)) @ basis.mT
    theta = torch.ones(size, dtype=torch.float64)
    phi = torch.linalg.solve(matrix, theta)
    problem: Bilevel[Tensor, Tensor] = Bilevel(
        upper=lambda theta, phi: phi.square().sum() / 2,
        lower=lambda theta, phi: phi @ (matrix @ phi) / 2 - phi @ theta,
    )

    def run(steps: int) -> tuple[int, int]:
        with Convolutions() as done:
            solver = CG(rtol=0.0, max_steps=steps)
            found = hypergradient(problem, theta, phi, solver=solver)
        return done.operations, found.certificate.adjoint.matvecs

    def chosen() -> Tensor:
        return hypergradient(problem, theta, phi).grad

    chosen()  # a kind of objective is probed at its first hypergradient
    whole = calls(chosen)
    with Convolutions() as done:
        chosen()
    run(few)
    (operations, products), (later, more_products) = run(few), run(more)
    steps, network = more - few, measured(NETWORK)
    each = (later - operations) / steps
    return {
        "CG: Hessian products of a step": Figure((more_products - products) / steps, "count"),
        "CG: operations of a step": Figure(each, "operations"),
        "CG: operations beside its steps": Figure(operations - few * each, "operations"),
        "hypergradient: Python frames": Figure(whole.frames, "operations"),
        "hypergradient: calls of autograd": Figure(whole.autograd, "count"),
        "hypergradient: operations": Figure(done.operations, "operations"),
        "CG: bytes alive at a product": Figure(_alive_at_a_product(), "bytes"),
        "network: vectors of a first hypergradient": Figure(network["first"], "bytes"),
        "network: vectors of a hypergradient": Figure(network["later"], "bytes"),
    }


def imported() -> dict[str, Figure]:
    """Modules that an import loads beside torch's own."""
    ours, theirs = modules()
    return {
        "import hypergrad: modules": Figure(ours, "count"),
        "import metalearn: modules": Figure(theirs, "count"),
    }


def _alive_at_a_product() -> int:
    """Most bytes that a solve of one large system holds while a product runs."""
    eigenvalues = torch.linspace(1, 2, LARGE)
    rhs = torch.ones(LARGE)
    alive: list[int] = []
    with LiveBytes([rhs]) as live:

        def product(vector: Tensor) -> Tensor:
            alive.append(live.now)
            return eigenvalues * vector

        CG(rtol=0.0, max_steps=FEW).solve(product, rhs)
    return max(alive)


def timed() -> dict[str, Figure]:
    """Process time of an upper step over that of the backbone's forward and backward beside it.

    The median over rounds: one quiet moment, in which the backbone alone ran, can not decide.
    """
    _, alone = backbone_pass(TIMED)
    runs: list[Callable[[], None]] = [alone]
    runs += [Step(method(name, STEPS), TIMED) for name in TIMED_METHODS]
    for run in runs:
        run()
    _, *found = ratios(interleaved(runs, rounds=ROUNDS))
    return {
        f"{name}: time over the backbone's, K = N = {STEPS}": Figure(ratio.median, "time")
        for name, ratio in zip(TIMED_METHODS, found, strict=True)
    }
