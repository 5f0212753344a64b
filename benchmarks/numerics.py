"""Other solvers and this library's on systems where a flag says less than one thinks.

    python -m benchmarks.numerics --out benchmarks/results/numerics.json

SciPy, scikit-learn and torch as they are installed; all in float64 on one thread unless a row says
otherwise. What is compared is what a solver says of itself with what is true. The tables of
docs/solvers.md are this file's.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.provenance import SEED, provenance, write
from hypergrad import CG, LBFGS, MINRES, GradientDescent, LinearSolver, Newton, Status, attach
from hypergrad.implicit.curvature import FiniteDifference, Hessian
from hypergrad.linear.automatic import chosen
from hypergrad.linear.lanczos import lanczos
from hypergrad.linear.operator import Operator
from hypergrad.objectives import SoftmaxRegression

sparse: Any = importlib.import_module("scipy.sparse.linalg")
datasets: Any = importlib.import_module("sklearn.datasets")
linear_model: Any = importlib.import_module("sklearn.linear_model")

Row = dict[str, str]
N = 200


def _even(condition: float, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.logspace(-np.log10(condition), 0, N, dtype=dtype)


def _random(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED), dtype=dtype)


def linear_systems() -> Iterator[Row]:
    """Words of solvers on systems that they do not solve."""
    for condition in (1e2, 1e4, 1e6):
        values = _even(condition)
        yield _system(f"even in logarithm, κ = {condition:.0e}", values, MINRES(), "minres")
    values = _even(1e5, torch.float32)
    yield _system("the same in float32, κ = 1e+05", values, CG(), "cg")
    yield _system("diag(1, 0), b = (1, 1)", torch.tensor([1.0, 0.0]).double(), MINRES(), "minres")


def _system(name: str, values: Tensor, solver: LinearSolver, peer: str) -> Row:
    b = torch.ones(2).double() if len(values) == 2 else _random((len(values),), values.dtype)
    ours = solver.solve(lambda v: values * v, b)
    x, info = getattr(sparse, peer)(np.diag(values.numpy()), b.numpy())
    left = float(np.linalg.norm(b.numpy() - values.numpy() * x) / float(b.norm()))
    return {
        "system": name,
        "SciPy": f"`{peer}`: info {info}, true residual {left:.1e}",
        "here": f"`{type(solver).__name__}()`: {_status(ours.status)}, {float(ours.residual):.1e}",
    }


def hard_systems() -> Iterator[Row]:
    """Steps that conjugate gradients take where rounding delays them."""
    for decay in (0.8, 0.9):
        n = 48
        index = torch.arange(n, dtype=torch.float64)
        values = 0.1 + index / (n - 1) * (100 - 0.1) * decay ** (n - 1 - index)
        yield _hard(f"Strakos' matrix, n = 48, ρ = {decay}", values.diag(), 1e-10)
    for n in (10, 12):
        index = torch.arange(n, dtype=torch.float64)
        yield _hard(f"Hilbert's matrix, n = {n}", 1 / (index[:, None] + index + 1), 1e-12)


def _hard(name: str, matrix: Tensor, rtol: float) -> Row:
    b = torch.ones(len(matrix), dtype=torch.float64)

    def apply(v: Tensor) -> Tensor:
        return matrix @ v

    default, long = CG(rtol=rtol).solve(apply, b), CG(rtol=rtol, max_steps=1000).solve(apply, b)
    minres = MINRES(rtol=rtol, max_steps=1000).solve(apply, b)
    taken = chosen(Operator(apply), b)
    dense = taken.solve(apply, b)
    return {
        "matrix": f"{name}, to {rtol:.0e}",
        "`CG(rtol=)`": f"{_status(default.status)}, {int(default.steps)} steps",
        "with `max_steps=1000`": f"{_status(long.status)}, {int(long.steps)} steps",
        "`MINRES`, 1000 steps": f"{_status(minres.status)}, residual {float(minres.residual):.0e}",
        "no solver given": f"`{type(taken).__name__}`: {_status(dense.status)}, "
        f"residual {float(dense.residual):.0e}",
    }


def eigenvalues() -> Iterator[Row]:
    """The ends of a spectrum that is even in logarithm: others' answers and Lanczos'."""
    for condition in (1e2, 1e4):
        values = _even(condition)
        start = _random((N, 1))
        row = {"κ": f"{condition:.0e}"}
        for largest, exact in ((True, 1.0), (False, 1 / condition)):
            found = torch.lobpcg(values.diag(), X=start.clone(), largest=largest)[0]
            end = "greatest" if largest else "least"
            row[f"`torch.lobpcg`, {end}"] = f"{abs(float(found[0]) - exact) / exact:.0e}"
        for steps in (30, N):
            ends = lanczos(partial(torch.mul, values), start[:, 0], steps=steps)
            for end, value, stated, exact in (
                ("greatest", ends.largest, ends.largest_error, 1.0),
                ("least", ends.smallest, ends.smallest_error, 1 / condition),
            ):
                off = abs(float(value.value) - exact) / exact
                row[f"Lanczos, {steps} steps, {end} (stated)"] = (
                    f"{off:.0e} ({float(stated) / exact:.0e})"
                )
        yield row


def lower_solvers() -> Iterator[Row]:
    """Points where lower solvers stop on a quadratic of condition 1e6, from 0, asked for 1e-3."""
    values, zero, best = _even(1e6), torch.zeros(N).double(), torch.ones(N).double()

    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (values * (phi - best).square()).sum() / 2 + theta @ phi

    solvers: dict[str, Any] = {
        "`LBFGS(rtol=1e-3)`": LBFGS(rtol=1e-3),
        "`LBFGS(rtol=1e-6, max_steps=5000)`": LBFGS(rtol=1e-6, max_steps=5000),
        "`Newton(rtol=1e-3)`": Newton(rtol=1e-3),
        "`Newton(rtol=0)`": Newton(rtol=0),
        "`GradientDescent`, 1000 steps": GradientDescent(max_steps=1000, step_size=1.0, rtol=1e-3),
    }
    for name, by in solvers.items():
        found = by.minimise(lower, zero, zero)
        distance = float((found.phi - best).norm() / best.norm())
        seen: list[Any] = []
        theta = zero.clone().requires_grad_()
        attach(lower, theta, found.phi, watch=seen.append).square().sum().backward()
        converged = found.converged is not None and bool(found.converged)
        step = float(seen[0].newton_step)
        yield {
            "solver": name,
            "says that it converged": "yes" if converged else "no",
            "distance from the minimiser": f"{distance:.0e}",
            "the certificate's `newton_step`": f"{step:.0e}",
            "`at_minimiser`": "yes" if bool(seen[0].at_minimiser) else "no",
        }


def _digits() -> tuple[Tensor, Tensor]:
    found = datasets.load_digits()
    return torch.tensor(found.data[:1000] / 16), torch.tensor(found.target[:1000])


def finite_differences() -> Iterator[Row]:
    """Products of `FiniteDifference` on softmax regression of 1000 digits, against exact ones."""
    x, y = _digits()
    for dtype in (torch.float64, torch.float32):
        features = torch.nn.functional.pad(x, (0, 1), value=1.0).to(dtype)
        lower = SoftmaxRegression(labels=y, l2=0.01)
        zeros = torch.zeros(10, features.shape[-1], dtype=dtype)
        phi = LBFGS(rtol=1e-4).minimise(lower, features, zeros).phi
        v = _random((phi.numel(),), dtype)
        off = [False]

        def plain(theta: Tensor, phi: Tensor, lower: Any = lower) -> Tensor:
            values: Tensor = lower(theta, phi)
            return values

        exact = Hessian().linearise(plain, features.double(), phi.double(), needed=off)
        right = exact.hessian(v.double())
        row = {"precision": str(dtype).removeprefix("torch.")}
        for step in (None, 1e-4, 1e-3, 1e-2):
            point = FiniteDifference(step=step).linearise(plain, features, phi, needed=off)
            error = float((point.hessian(v).double() - right).norm() / right.norm())
            row["default step" if step is None else f"step {step:.0e}"] = f"{error:.0e}"
        reverse = Hessian().linearise(plain, features, phi, needed=off).hessian(v)
        row["`Hessian()`"] = f"{float((reverse.double() - right).norm() / right.norm()):.0e}"
        yield row


def logistic_regression() -> Iterator[Row]:
    """scikit-learn's LogisticRegression on its digits, and two Newton steps from there."""
    x, y = _digits()
    for options in ({}, {"max_iter": 5000}, {"tol": 1e-8, "max_iter": 5000}):
        model = linear_model.LogisticRegression(**options)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(x.numpy(), y.numpy())
        phi = {"w": torch.tensor(model.coef_), "b": torch.tensor(model.intercept_)}

        def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
            logits = x @ phi["w"].mT + phi["b"]
            fit = torch.nn.functional.cross_entropy(logits, y, reduction="sum")
            # the intercepts' common shift moves nothing: hold it
            return theta.exp() * fit + phi["w"].square().sum() / 2 + phi["b"].sum().square() / 2

        theta = torch.zeros((), dtype=torch.float64)
        phi["b"] = phi["b"] - phi["b"].mean()
        inner = CG(rtol=1e-8, max_steps=5000)
        best = Newton(rtol=0, solver=inner).minimise(lower, theta, phi).phi
        polished = Newton(max_steps=2, rtol=0, solver=inner).minimise(lower, theta, phi).phi
        seen: list[Any] = []
        log_c = theta.clone().requires_grad_()
        solved = attach(lower, log_c, phi, solver=inner, watch=seen.append)
        (solved["w"].square().sum() / 2).backward()
        given = ", ".join(f"{key}={value}" for key, value in options.items()) or "the defaults"
        yield {
            "settings": given,
            "steps": str(int(model.n_iter_.max())),
            "warns": "yes" if caught else "no",
            "distance from the minimiser": f"{_apart(phi, best):.1%}",
            "`newton_step` (a lower bound)": f"{float(seen[0].newton_step):.1%}",
            "after two Newton steps": f"{_apart(polished, best):.0e}",
        }


def _apart(phi: dict[str, Tensor], best: dict[str, Tensor]) -> float:
    difference = sum(float((phi[key] - best[key]).square().sum()) for key in best)
    return float((difference / sum(float(value.square().sum()) for value in best.values())) ** 0.5)


def _status(status: Tensor) -> str:
    return Status(int(status)).name


TABLES: dict[str, Callable[[], Iterator[Row]]] = {
    "linear systems": linear_systems,
    "hard systems": hard_systems,
    "eigenvalues": eigenvalues,
    "lower solvers": lower_solvers,
    "finite differences": finite_differences,
    "logistic regression": logistic_regression,
}


def table(rows: list[Row]) -> str:
    """Rows as Markdown."""
    heads = list(rows[0])
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    return "\n".join(lines + [f"| {' | '.join(row[head] for head in heads)} |" for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    origin = provenance() | {
        name: importlib.metadata.version(name) for name in ("scipy", "scikit-learn", "numpy")
    }
    found: dict[str, list[Row]] = {}
    for name, rows in TABLES.items():
        found[name] = list(rows())
        print(f"{name}\n\n{table(found[name])}\n", flush=True)
    if asked.out is not None:
        write(asked.out, {"provenance": origin, "tables": found})


if __name__ == "__main__":
    main()
