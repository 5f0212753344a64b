"""Ways to one hypergradient, this library's and its peers', on the same problem at the same phi.

Each method gets the objectives as plain functions and the minimiser, and returns the hypergradient.
What a user would set up once (an engine, a decorated solver) is set up once, outside the time.
Peers are looked up at run time: they live in a virtual environment of their own, or are absent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.peer_cases import Case
from benchmarks.peer_entries import LARGEST_DENSE, RTOL, STEPS, Method, peer
from benchmarks.peer_jax import at_minimiser
from hypergrad import CG, Bilevel, Cholesky, Woodbury, attach, hypergradient
from hypergrad.objectives import Quadratic

LONGEST_UNROLL = 4000


def methods(case: Case) -> Iterator[Method]:
    """Every method that is installed and can do this case."""
    ours = hypergradient(_bilevel(case), case.theta, case.phi, solver=CG(rtol=RTOL))
    steps = int(ours.certificate.adjoint.steps)
    error = case.error(ours.grad)
    yield from _ours(case, steps)
    yield from _torchopt(case, steps)
    yield from _betty(case, steps, error)
    yield from _higher(case, error)
    yield from at_minimiser(case)


def _bilevel(case: Case) -> Bilevel[Tensor, Tensor]:
    return Bilevel(upper=case.upper, lower=case.lower)


def _ours(case: Case, steps: int) -> Iterator[Method]:
    solver = CG(rtol=RTOL)

    def functional() -> Tensor:
        return hypergradient(_bilevel(case), case.theta, case.phi, solver=solver).grad

    def attached() -> Tensor:
        theta = case.theta.detach().requires_grad_()
        phi = attach(case.lower, theta, case.phi, solver=solver)
        return torch.autograd.grad(case.upper(theta, phi), theta)[0]

    yield Method(
        package="hypergrad", how="hypergradient, CG", given="values", steps=steps, run=functional
    )
    yield Method(
        package="hypergrad",
        how="hypergradient, default solver",
        run=lambda: hypergradient(_bilevel(case), case.theta, case.phi).grad,
    )
    yield Method(
        package="hypergrad", how="attach + backward, CG", given="values", steps=steps, run=attached
    )
    if len(case.cotangent) <= LARGEST_DENSE:
        direct = Cholesky()
        yield Method(
            package="hypergrad",
            how="hypergradient, Cholesky",
            given="values",
            steps=None,
            run=lambda: hypergradient(_bilevel(case), case.theta, case.phi, solver=direct).grad,
        )
    if case.matrix is None:
        return
    known = Quadratic(
        matrix=case.matrix,
        coupling=torch.eye(len(case.theta), dtype=case.theta.dtype),
        offset=torch.zeros_like(case.theta),
    )
    problem: Bilevel[Tensor, Tensor] = Bilevel(upper=case.upper, lower=known)
    yield Method(
        package="hypergrad",
        how="Quadratic, CG",
        given="derivatives",
        steps=steps,
        run=lambda: hypergradient(problem, case.theta, case.phi, solver=solver).grad,
    )
    inverse = Woodbury()
    yield Method(
        package="hypergrad",
        how="Quadratic, its own inverse (Woodbury)",
        given="derivatives",
        steps=None,
        run=lambda: hypergradient(problem, case.theta, case.phi, solver=inverse).grad,
    )


def _torchopt(case: Case, steps: int) -> Iterator[Method]:
    torchopt = peer("torchopt")
    if torchopt is None:
        return

    def by_autodiff(phi: Tensor, theta: Tensor) -> Tensor:
        slope: Tensor = torch.func.grad(lambda point: case.lower(theta, point))(phi)
        return slope

    cg = torchopt.linear_solve.solve_cg(rtol=RTOL, maxiter=STEPS)
    dense = torchopt.linear_solve.solve_inv(ns=False)  # its own: the matrix by vmap, then LU

    def run_with(
        optimality: Callable[[Tensor, Tensor], Tensor], solve: Any
    ) -> Callable[[], Tensor]:
        root = torchopt.diff.implicit.custom_root(optimality, argnums=1, solve=solve)

        def finished(phi: Tensor, theta: Tensor) -> Tensor:
            return phi

        minimiser: Callable[[Tensor, Tensor], Tensor] = root(finished)

        def run() -> Tensor:
            theta = case.theta.detach().requires_grad_()
            return torch.autograd.grad(case.upper(theta, minimiser(case.phi, theta)), theta)[0]

        return run

    solvers: dict[str, tuple[Any, int | None]] = {"solve_cg": (cg, steps)}
    if len(case.cotangent) <= LARGEST_DENSE:
        solvers["solve_inv"] = (dense, None)
    for name, (solver, taken) in solvers.items():
        yield Method(
            package="torchopt",
            how=f"custom_root, {name}",
            given="values",
            steps=taken,
            run=run_with(by_autodiff, solver),
        )
    matrix = case.matrix
    if matrix is None:
        return
    for name, (solver, taken) in solvers.items():
        yield Method(
            package="torchopt",
            how=f"custom_root of a written gradient, {name}",
            given="derivatives",
            steps=taken,
            run=run_with(lambda phi, theta: matrix @ phi - theta, solver),
        )


class _Held(torch.nn.Module):
    """A module that only holds one tensor: betty and higher differentiate modules."""

    def __init__(
        self, value: Tensor, objective: Callable[[Tensor, Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(value.detach().clone())
        self.objective = objective

    def forward(self, theta: Tensor) -> Tensor:
        assert self.objective is not None
        return self.objective(theta, self.value)


def _betty(case: Case, steps: int, error: float) -> Iterator[Method]:
    if peer("betty") is None:
        return
    rate = 2 / (case.smallest + case.largest)
    yield Method(
        package="betty",
        how="type='cg', the same steps",
        given="values",
        steps=steps,
        run=_betty_run(case, {"type": "cg", "cg_iterations": steps}),
    )
    terms = _steps_to(case, error, rate, 0.0)
    if terms is not None:
        # betty's series begins with alpha c, so that its k-th term is the k+1st
        settings = {"type": "neumann", "neumann_iterations": terms - 1, "neumann_alpha": rate}
        yield Method(
            package="betty",
            how="type='neumann', steps for our error",
            given="values",
            steps=terms,
            run=_betty_run(case, settings),
        )


def _betty_run(case: Case, settings: dict[str, object]) -> Callable[[], Tensor]:
    problems, engines = peer("betty.problems"), peer("betty.engine")
    configs = peer("betty.configs")
    upper_module, lower_module = _Held(case.theta), _Held(case.phi)

    class Nothing(problems.ImplicitProblem):  # type: ignore[misc, name-defined]
        def get_batch(self) -> None:
            return None

    class Lower(Nothing):
        def training_step(self, batch: None) -> Tensor:
            return case.lower(upper_module.value, lower_module.value)

    class Upper(Nothing):
        def training_step(self, batch: None) -> Tensor:
            return case.upper(upper_module.value, lower_module.value)

    def problem(kind: Any, name: str, module: _Held, config: dict[str, object]) -> Any:
        optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
        return kind(name=name, module=module, optimizer=optimiser, config=configs.Config(**config))

    upper = problem(Upper, "upper", upper_module, {"retain_graph": True})
    lower = problem(Lower, "lower", lower_module, settings)
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
        engines.Engine(
            problems=[upper, lower],
            config=configs.EngineConfig(strategy="cpu"),
            dependencies={"u2l": {upper: [lower]}, "l2u": {lower: [upper]}},
        )

    def run() -> Tensor:
        # what its Problem.one_step_descent does before the optimiser's step
        loss, _ = upper.get_loss(None)
        upper.backward(
            loss=loss,
            params=upper.trainable_parameters(),
            paths=upper.paths,
            create_graph=False,
            retain_graph=True,
            allow_unused=True,
        )
        gradient = upper_module.value.grad
        assert gradient is not None
        upper.zero_grad()
        return gradient

    return run


def _higher(case: Case, error: float) -> Iterator[Method]:
    """Unrolled from phi itself, where each step is a term of a series for the adjoint."""
    higher = peer("higher")
    if higher is None:
        return
    low, high = case.smallest**0.5, case.largest**0.5
    rate, momentum = 4 / (low + high) ** 2, ((high - low) / (high + low)) ** 2
    steps = _steps_to(case, error, rate, momentum)
    if steps is not None:
        yield Method(
            package="higher",
            how="SGD with the best momentum, steps for our error",
            steps=steps,
            run=_higher_run(case, higher, rate, momentum, steps),
        )


def _higher_run(
    case: Case, higher: Any, rate: float, momentum: float, steps: int
) -> Callable[[], Tensor]:
    module = _Held(case.phi, case.lower)
    optimiser = torch.optim.SGD(module.parameters(), lr=rate, momentum=momentum)

    def run() -> Tensor:
        theta = case.theta.detach().requires_grad_()
        with higher.innerloop_ctx(module, optimiser) as (model, unrolled):
            for _ in range(steps):
                unrolled.step(model(theta))
            (phi,) = model.parameters()
            return torch.autograd.grad(case.upper(theta, phi), theta)[0]

    return run


def _steps_to(case: Case, error: float, rate: float, momentum: float) -> int | None:
    """The least number of terms of a gradient method's series for v that has this error."""
    v = torch.zeros_like(case.cotangent)
    before = v
    for step in range(1, LONGEST_UNROLL + 1):
        move = rate * (case.cotangent - case.product(v)) + momentum * (v - before)
        v, before = v + move, v
        if case.error(case.pull(v)) <= error:
            return step
    return None
