"""Limits of numbers where good guesses are wrong: four, each with a statement and its proof.

Proofs are in theory.md, section 13.

- *Attained residual.* With products that err by at most eps L |p|, conjugate gradients end no
  higher than (N + 2)(eps + 4 u) L |x|/|b| after N steps, and what they report is within
  eps L |x|/|b| + 4 u of the truth.
- *Lanczos' ends.* The estimate of an extreme eigenvalue errs to the inside by at most Saad's bound,
  and an eigenvalue lies within the stated error.
- *Predicted error.* What `predicted_error` leaves of f(phi) - f(phi*) is Theorem S's remainder; on
  a quadratic g with f = |P phi|^2/2 it is -|P(phi - phi*)|^2/2, exactly.
- *Least damping.* An adjoint solved with H + E + damping I, |E| <= delta, descends for every right-
  hand side from `least_damping` on, and below it there is an E with which it does not.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from jaxtyping import Float64

from hypergrad import CG, Bilevel, Cholesky, Solution, hypergradient
from hypergrad.linear.lanczos import Spectrum, lanczos
from hypergrad.objectives import Quadratic
from verification.claims.evidence import Evidence, worst
from verification.oracles.rounding import unit_roundoff
from verification.problems.drawn import spectrum, symmetric
from verification.subjects.bug import Kind, source_bugs

SINGLE = 2.0**-24  # unit round-off of float32
DOUBLE = unit_roundoff()

Vector = Float64[np.ndarray, " n"]
Matrix = Float64[np.ndarray, "n n"]


def _inequality(claim: str, value: float, bound: float, scale: float, where: str) -> Evidence:
    """Evidence for value <= bound; the bound has its allowance for rounding in it."""
    return Evidence(
        claim=claim, error=float(value), tolerance=float(bound), scale=float(scale), where=where
    )


# The residual that float32 reaches


def solve_single(apply: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor) -> Solution:
    """Conjugate gradients for as long as they help."""
    return CG(rtol=0.0, max_steps=10 * len(b)).solve(apply, b)


def attained_residual(subject: Callable[..., Solution], seed: int) -> Evidence:
    """Float32 conjugate gradients end at (products' error + rounding) x kappa, and say where."""
    return worst(_attained(subject, seed))


def _attained(subject: Callable[..., Solution], seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 41])
    for noise, decades in ((0.0, 4), (1e-5, 2)):
        condition = 10 ** rng.uniform(decades - 1, decades)
        n = int(rng.integers(8, 24))
        matrix = symmetric(rng, spectrum(rng, (), n, 1.0, condition))
        b = torch.tensor(rng.standard_normal(n), dtype=torch.float32)
        draws = np.random.default_rng([seed, 42])

        def apply(
            vector: torch.Tensor,
            matrix: Matrix = matrix,
            noise: float = noise,
            draws: np.random.Generator = draws,
        ) -> torch.Tensor:
            exact = matrix @ vector.double().numpy()
            wrong = draws.standard_normal(len(exact))
            wrong *= noise * np.linalg.norm(vector.double().numpy()) / np.linalg.norm(wrong)
            return torch.tensor(exact + wrong, dtype=torch.float32)

        found = subject(apply, b)
        x, right = found.x.double().numpy(), b.double().numpy()
        true = float(np.linalg.norm(right - matrix @ x) / np.linalg.norm(right))
        length = float(np.linalg.norm(x) / np.linalg.norm(right))  # L |x|/|b| with L = 1
        where = f"kappa {condition:.1f}, n = {n}, products to {noise:.0e}"
        bound = (int(found.steps) + 2) * (noise + 4 * SINGLE) * length
        yield _inequality("attained residual", true, bound, 1.0, f"{where}: attained")
        misreported = abs(float(found.residual) - true)
        allowed = noise * length + 4 * SINGLE
        yield _inequality("attained residual", misreported, allowed, true, f"{where}: reported")


ATTAINED = Kind(
    "float32 solves",
    solve_single,
    source_bugs(
        solve_single,
        "attained residual",
        (
            (
                "R01",
                "the residual reported is the recurrence's",
                "linear.krylov",
                "torch.div(rhs, scale, out=run.residual).sub_(product.exact(run.x))",
                "run.residual",
            ),
            (
                "R02",
                "a solve ends at a hundredth",
                "linear.krylov",
                "torch.finfo(rhs.dtype).eps",
                "0.01",
            ),
        ),
    ),
)


# The ends of the spectrum


def ends(matrix: torch.Tensor, start: torch.Tensor, steps: int) -> Spectrum:
    """The library's Lanczos method."""
    return lanczos(lambda vector: matrix @ vector, start, steps=steps)


def lanczos_ends(subject: Callable[..., Spectrum], seed: int) -> Evidence:
    """Lanczos' extreme values err to the inside, within Saad's bound and their stated errors."""
    return worst(_ends(subject, seed))


def _ends(subject: Callable[..., Spectrum], seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 43])
    for steps, n in ((3, 20), (6, 25), (12, 12)):
        matrix = symmetric(rng, spectrum(rng, (), n, 1.0, 10 ** rng.uniform(1, 4)))
        start = rng.standard_normal(n)
        found = subject(torch.tensor(matrix), torch.tensor(start), steps)
        values, vectors = np.linalg.eigh(matrix)
        rounding = 30 * n * DOUBLE  # of a norm of 1, in n sums of n terms and LAPACK's own
        estimates = (
            ("smallest", found.smallest, found.smallest_error),
            ("largest", found.largest, found.largest_error),
        )
        for name, estimate, stated in estimates:
            value = float(estimate.value)
            order = np.arange(n) if name == "smallest" else np.arange(n)[::-1]
            extreme, second, far = values[order[0]], values[order[1]], values[order[-1]]
            inside = (value - extreme) * (1 if name == "smallest" else -1)
            cosine = abs(vectors[:, order[0]] @ start) / np.linalg.norm(start)
            tangent = math.sqrt(1 - cosine**2) / cosine
            gap = abs(second - extreme) / abs(far - second)
            growth = math.cosh((steps - 1) * math.acosh(1 + 2 * gap))  # Chebyshev's polynomial
            # all steps give all eigenvalues
            saad = 0.0 if steps == n else abs(far - extreme) * (tangent / growth) ** 2
            bound = saad + rounding
            where = f"{name}, n = {n}, {steps} steps"
            yield _inequality("Lanczos' ends", inside, bound, extreme, f"{where}: Saad's bound")
            yield _inequality("Lanczos' ends", -inside, rounding, extreme, f"{where}: inside")
            near = float(np.abs(values - value).min())
            allowed = float(stated) + rounding
            yield _inequality("Lanczos' ends", near, allowed, value, f"{where}: stated error")


ENDS = Kind(
    "spectra",
    ends,
    source_bugs(
        ends,
        "Lanczos' ends",
        (
            (
                "E01",
                "the least value is the second one",
                "linear.lanczos",
                "for column in (0, -1):",
                "for column in (1, -1):",
            ),
            (
                "E02",
                "errors are said to be zero",
                "linear.lanczos",
                "found += [value, norm(image - value[..., None] * ritz)]",
                "found += [value, 0 * value]",
            ),
            (
                "E03",
                "vectors are not made orthogonal",
                "linear.lanczos",
                "for _ in range(2):",
                "for _ in range(0):",
            ),
        ),
    ),
)


# What predicted_error leaves


def predicted(
    matrix: torch.Tensor, bend: float, target: torch.Tensor, rows: torch.Tensor, phi: torch.Tensor
) -> float:
    """``predicted_error`` of g = phi'A phi/2 + bend sum log cosh phi - theta'phi at this phi."""

    def lower(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return phi @ matrix @ phi / 2 + bend * phi.cosh().log().sum() - theta @ phi

    problem: Bilevel[torch.Tensor, torch.Tensor] = Bilevel(
        upper=lambda theta, phi: (rows @ phi).square().sum() / 2, lower=lower
    )
    found = hypergradient(problem, target, phi, solver=Cholesky())
    return float(found.certificate.predicted_error)


def predicted_remainder(subject: Callable[..., float], seed: int) -> Evidence:
    """predicted_error is off by Theorem S's remainder at most, and by all of it on quadratics."""
    return worst(_remainders(subject, seed))


def _remainders(subject: Callable[..., float], seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 44])
    for bend in (0.0, 0.0, 3.0, 3.0):
        n = int(rng.integers(2, 8))
        values = spectrum(rng, (), n, 4.0, 10 ** rng.uniform(0, 1.5))
        matrix, mu = symmetric(rng, values), float(values[0])
        rows = rng.standard_normal((n + 1, n))
        best = rng.standard_normal(n)
        theta = matrix @ best + bend * np.tanh(best)  # so that best is the minimiser
        step = 10 ** rng.uniform(-3, 0) * rng.standard_normal(n)
        phi = best + step
        predicted = subject(
            torch.tensor(matrix),
            bend,
            torch.tensor(theta),
            torch.tensor(rows),
            torch.tensor(phi),
        )
        change = (np.sum((rows @ phi) ** 2) - np.sum((rows @ best) ** 2)) / 2
        hessian = matrix + bend * np.diag(1 / np.cosh(phi) ** 2)
        v = np.linalg.solve(hessian, rows.T @ (rows @ phi))
        moved = float(np.linalg.norm(step))
        size = (4.0 + bend) * float(np.linalg.norm(v)) * (moved + float(np.linalg.norm(best)))
        rounding = 100 * DOUBLE * size * (4.0 + bend) / mu
        where = f"n = {n}, log cosh with factor {bend:.0f}, |phi - phi*| = {moved:.1e}"
        if bend == 0:
            error = abs(change - predicted + np.sum((rows @ step) ** 2) / 2)
            yield _inequality("predicted error", error, rounding, abs(change), f"{where}: equal")
        else:
            steep = bend * 4 / (3 * math.sqrt(3))  # |(tanh)''| <= 4/(3 sqrt 3)
            curved = np.linalg.norm(rows, 2) ** 2 + steep * np.linalg.norm(v)
            bound = float(curved) * moved**2 / 2 + rounding
            yield _inequality(
                "predicted error", abs(change - predicted), bound, abs(change), f"{where}: bound"
            )


PREDICTED = Kind(
    "predicted errors",
    predicted,
    source_bugs(
        predicted,
        "predicted error",
        (
            (
                "F01",
                "predicted with the other sign",
                "implicit.pullback",
                "predicted_error=predicted,",
                "predicted_error=-predicted,",
            ),
            (
                "F02",
                "half of it is predicted",
                "implicit.pullback",
                "predicted_error=predicted,",
                "predicted_error=predicted / 2,",
            ),
        ),
    ),
)


# The least damping


def least_damping(mu: float, largest: float, delta: float) -> float:
    """The damping from which every damped hypergradient descends; theory.md, section 13."""
    s, t = 1 / mu + 1 / largest, 1 / (mu * largest)
    u = (1 + math.sqrt(1 + delta**2 * t)) / delta
    u = min(max(u, 1 / largest), 1 / mu)
    return s * (delta * u - 1) / (u**2 + t)


def damped(matrix: torch.Tensor, c: torch.Tensor, damping: float) -> torch.Tensor:
    """The hypergradient (matrix + damping I)^-1 c, of a theta that g is linear in."""
    lower = Quadratic(matrix=matrix, coupling=torch.eye(len(c)).to(c), offset=0 * c)
    problem: Bilevel[torch.Tensor, torch.Tensor] = Bilevel(
        upper=lambda theta, phi: phi @ c, lower=lower
    )
    solver = CG(rtol=1e-12, damping=damping)
    return hypergradient(problem, 0 * c, 0 * c, solver=solver).grad


def descending(subject: Callable[..., torch.Tensor], seed: int) -> Evidence:
    """From the least damping on a hypergradient with a wrong H descends; a twentieth below not."""
    return worst(_descending(subject, seed))


def _descending(subject: Callable[..., torch.Tensor], seed: int) -> Iterator[Evidence]:
    rng = np.random.default_rng([seed, 45])
    for factor in (1.05, 0.95):
        n = int(rng.integers(3, 8))
        mu, largest = 1.0, float(10 ** rng.uniform(1, 2))
        delta = float(rng.uniform(5, 10))
        values = spectrum(rng, (), n, largest, largest / mu)
        basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
        hessian = basis * values @ basis.T
        # the worst direction lies in the plane of the extreme eigenvectors
        s, t = 1 / mu + 1 / largest, 1 / (mu * largest)
        least = least_damping(mu, largest, delta)
        u = min((1 + math.sqrt(1 + delta**2 * t)) / delta, 1 / mu)
        share = ((u**2 + t) / s - 1 / largest) / (1 / mu - 1 / largest)
        y = math.sqrt(share) * basis[:, 0] + math.sqrt(1 - share) * basis[:, -1]
        z = np.linalg.solve(hessian, y)
        w = y + z / np.linalg.norm(z)
        error = delta * (np.eye(n) - 2 * np.outer(w, w) / (w @ w))  # takes y to -delta z/|z|
        wrong = hessian + error
        c = (wrong + factor * least * np.eye(n)) @ y
        found = subject(torch.tensor(wrong), torch.tensor(c), factor * least).numpy()
        lowest = float(np.linalg.eigvalsh(wrong)[0]) + factor * least
        size = (largest + delta + least) / lowest
        rounding = (2e-12 + 100 * DOUBLE) * size
        where = f"L/mu = {largest:.0f}, delta = {delta:.1f} mu, {factor} of the least damping"
        gap = float(np.linalg.norm(found - y))
        yield _inequality("least damping", gap, rounding, 1.0, f"{where}: the damped solution")
        slope = float(found @ np.linalg.solve(hessian, c))  # <h, grad F>
        sign = -slope if factor > 1 else slope
        yield _inequality("least damping", sign, rounding * size, 1.0, f"{where}: its sign")


DAMPED = Kind(
    "damped hypergradients",
    damped,
    source_bugs(
        damped,
        "least damping",
        (
            (
                "D01",
                "a tenth of the damping is lost",
                "linear.cg",
                "product = Operator(apply, damping=damping)",
                "product = Operator(apply, damping=0.9 * damping)",
            ),
            (
                "D02",
                "no damping",
                "linear.cg",
                "product = Operator(apply, damping=damping)",
                "product = Operator(apply)",
            ),
        ),
    ),
)
