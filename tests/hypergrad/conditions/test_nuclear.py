"""Matrices of low rank: the nuclear norm's prox problem, whose derivative has a closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hypergrad import CG, Bilevel, Cholesky, attach, hypergradient, strict
from hypergrad.conditions import Composite, NuclearNorm, reach
from hypergrad.conditions.nuclear import _Blocks
from hypergrad.errors import AdjointError, InputError
from hypergrad.solvers import ProximalGradient


def near(theta: Tensor, phi: Tensor) -> Tensor:
    return (phi - theta).square().sum((-1, -2)) / 2


def prox(strength: float = 1.0) -> Any:
    return Composite(near, NuclearNorm(strength))


def drawn(rows: int, columns: int, values: list[float], seed: int = 0) -> np.ndarray:
    """A matrix with these singular values."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.standard_normal((n, n)))[0] for n in (rows, columns))
    k = len(values)
    return np.asarray(left[:, :k] * values @ right[:, :k].T)


def thresholded(Y: np.ndarray, along: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The solution for strength 1, and its derivative along a direction.

    With f(s) = max(s - 1, 0), in bases of singular vectors the derivative multiplies the symmetric
    part of entry (i, j) by ``(f_i - f_j)/(s_i - s_j)``, the other by ``(f_i + f_j)/(s_i + s_j)``,
    with s = f = 0 beyond the shorter side (Candes, Sing-Long and Trzasko 2013).
    """
    rows, columns = Y.shape
    u, s, vh = np.linalg.svd(Y)
    size = max(Y.shape)
    s = np.concatenate([s, np.zeros(size - len(s))])
    f = np.maximum(s - 1, 0)
    inside = np.zeros((size, size))
    inside[:rows, :columns] = u.T @ along @ vh.T
    apart, both = s[:, None] - s, s[:, None] + s
    equal = np.abs(apart) < 1e-9 * s[0]
    even = np.where(equal, (s > 1)[:, None], (f[:, None] - f) / np.where(equal, 1, apart))
    odd = (f[:, None] + f) / np.where(both > 0, both, 1)
    moved = even * (inside + inside.T) / 2 + odd * (inside - inside.T) / 2
    solution = (u[:, : min(Y.shape)] * f[: min(Y.shape)]) @ vh[: min(Y.shape)]
    return solution, u @ moved[:rows, :columns] @ vh


SPECTRA = {
    "tall": (5, 4, [3.0, 2.0, 1.5, 0.2]),
    "wide": (3, 5, [2.5, 0.6, 0.1]),
    "coinciding": (4, 4, [3.0, 3.0, 0.5, 0.5]),
    "full rank": (4, 6, [2.0, 2.0, 2.0, 1.5]),
    "rank zero": (3, 3, [0.5, 0.3, 0.1]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_derivative_of_singular_value_thresholding(name: str, dtype: torch.dtype) -> None:
    rows, columns, values = SPECTRA[name]
    eps = torch.finfo(dtype).eps
    direct, by = Cholesky(), ProximalGradient(rtol=10 * eps)
    for batch, solver in (((), direct), ((2,), CG(rtol=10 * eps)), ((2, 2), direct)):
        tasks = int(np.prod(batch))
        each = [drawn(rows, columns, values, seed) for seed in range(tasks)]
        along = np.random.default_rng(9).standard_normal((rows, columns))
        exact = [thresholded(Y, along) for Y in each]  # self-adjoint: the gradient of <along, phi>
        shape = (*batch, rows, columns)
        Y, wanted, solution = (
            torch.tensor(np.stack(parts).reshape(shape), dtype=dtype)
            for parts in (each, [found[1] for found in exact], [found[0] for found in exact])
        )
        phi = by.minimise(prox(), Y, torch.zeros_like(Y)).phi
        # a step and its rounding: of Y, 5 long at most, by decompositions of 6 by 6 matrices
        assert float((phi - solution).abs().max()) < 100 * eps * 5
        seen: list[Any] = []
        at = Y.clone().requires_grad_()
        found = attach(prox(), at, phi, solver=solver, watch=seen.append)
        (found * torch.tensor(along, dtype=dtype)).sum().backward()
        assert bool(seen[0].solved.all()), str(seen[0])
        assert at.grad is not None
        # 1 + 1/s_r is both the condition number of the system, 3 here, and how fast it turns
        assert float((at.grad - wanted).abs().max()) < 100 * eps * 5 * 3**2


def test_tasks_may_differ_in_rank() -> None:
    tasks = [drawn(4, 3, values) for values in ([3.0, 2.0, 1.5], [3.0, 0.5, 0.2], [0.5, 0.4, 0.1])]
    along = np.ones((4, 3))
    at = torch.tensor(np.stack(tasks)).requires_grad_()
    phi = ProximalGradient(rtol=1e-13).minimise(prox(), at.detach(), torch.zeros_like(at)).phi
    assert torch.linalg.matrix_rank(phi).tolist() == [3, 1, 0]
    attach(prox(), at, phi).sum().backward()
    wanted = torch.tensor(np.stack([thresholded(Y, along)[1] for Y in tasks]))
    assert torch.allclose(at.grad, wanted, atol=1e-12)  # type: ignore[arg-type]


def test_the_norm_has_derivatives_of_any_order() -> None:
    # rank 2 along the curve: |A B|_* = sqrt(tr G + 2 sqrt(det G)), G = B B' A'A, is smooth
    draw = torch.Generator().manual_seed(0)
    A, A1 = torch.randn(2, 5, 2, generator=draw, dtype=torch.float64)
    B, B1 = torch.randn(2, 2, 4, generator=draw, dtype=torch.float64)

    def by_blocks(t: Tensor) -> Tensor:
        return _Blocks((A + t * A1) @ (B + t * B1)).nuclear_norm()

    def by_hand(t: Tensor) -> Tensor:
        left, right = A + t * A1, B + t * B1
        gram = right @ right.mT @ left.mT @ left
        inner = gram[0, 0] * gram[1, 1] - gram[0, 1] * gram[1, 0]
        found: Tensor = (gram[0, 0] + gram[1, 1] + 2 * inner.sqrt()).sqrt()
        return found

    functions = by_blocks, by_hand
    for _ in range(4):
        here = torch.zeros((), dtype=torch.float64)
        mine, wanted = (float(function(here)) for function in functions)
        assert mine == pytest.approx(wanted, rel=1e-10)
        functions = tuple(torch.func.grad(function) for function in functions)  # type: ignore[assignment]


def test_the_margin_is_of_both_sides() -> None:
    Y = torch.diag(torch.tensor([3.0, 0.5], dtype=torch.float64))
    phi = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    problem: Any = Bilevel(upper=lambda t, p: p.sum(), lower=prox())
    active = hypergradient(problem, Y, phi).certificate.active
    assert active is not None
    # the gradient is diag(-1, -1/2), at phi/2 diag(-2, -1/2): its terms are |(1, 1/2)| + 2
    assert float(active.margin) == pytest.approx(0.5 / (1.25**0.5 + 2))
    assert bool(active.decided)
    found = reach(prox(), Y, phi)
    assert float(found.distance) == pytest.approx(0.5)
    assert found.direction.flatten().tolist() == pytest.approx([0, 0, 0, 1])
    thin = reach(prox(), torch.diag(torch.tensor([1.2, 0.5], dtype=torch.float64)), 0.1 * phi)
    assert float(thin.distance) == pytest.approx(0.2)


def test_at_a_change_of_rank_there_is_no_derivative() -> None:
    Y = torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)).requires_grad_()
    phi = torch.diag(torch.tensor([2.0, 0.0], dtype=torch.float64))
    with pytest.raises(AdjointError, match="only one-sided"):
        attach(prox(), Y, phi, watch=strict).sum().backward()
    beyond = torch.diag(torch.tensor([3.0, 1.5], dtype=torch.float64)).requires_grad_()
    with pytest.raises(AdjointError, match="active set is wrong"):
        attach(prox(), beyond, phi, watch=strict).sum().backward()


def test_a_strength_of_zero_holds_no_rank() -> None:
    # of two tasks the first is free: its phi is theta, of rank 1 by chance
    strength = torch.tensor([0.0, 1.0], dtype=torch.float64).reshape(2, 1, 1)
    theta = torch.from_numpy(np.stack([drawn(3, 3, [2.0]), drawn(3, 3, [3.0, 2.5])]))
    theta.requires_grad_()
    phi = torch.stack(
        [
            theta[0].detach(),
            torch.from_numpy(thresholded(theta[1].detach().numpy(), np.zeros((3, 3)))[0]),
        ]
    )
    seen: list[Any] = []
    moved = attach(Composite(near, NuclearNorm(strength)), theta, phi, watch=seen.append)
    weights = torch.arange(9, dtype=torch.float64).reshape(3, 3) + 1
    (moved * weights).sum().backward()
    assert theta.grad is not None
    assert torch.allclose(theta.grad[0], weights, rtol=1e-12)
    assert not torch.allclose(theta.grad[1], weights, rtol=0.1)
    assert seen[0].solved.all()
    assert seen[0].active.margin[0] == torch.inf


def test_what_is_no_penalty_or_no_matrix_is_refused() -> None:
    for strength in (-1.0, float("nan")):
        with pytest.raises(InputError, match="NuclearNorm got strength"):
            NuclearNorm(strength)
    matrix, by = torch.eye(2, dtype=torch.float64), ProximalGradient()
    negative: Any = Composite(near, NuclearNorm(lambda theta: -theta[:1, :1]))
    with pytest.raises(InputError, match="NuclearNorm: the strength is negative"):
        by.minimise(negative, matrix, matrix)
    row = torch.ones(2, dtype=torch.float64)
    flat: Any = Composite(lambda t, p: (p - t).square().sum(-1), NuclearNorm(1.0))
    with pytest.raises(InputError, match="NuclearNorm needs 2 more dimension"):
        by.minimise(flat, row, row)
    entries: Any = Composite(near, NuclearNorm(torch.ones(2, 2)))
    with pytest.raises(InputError, match=r"NuclearNorm: strength has shape \(2, 2\)"):
        by.minimise(entries, matrix, matrix)


@pytest.mark.parametrize("shape", [(0, 3), (2, 3, 0)])
def test_a_matrix_without_entries_has_no_derivative_to_miss(shape: tuple[int, ...]) -> None:
    theta = torch.zeros(shape, requires_grad=True)
    attach(prox(), theta, torch.zeros(shape), watch=strict).sum().backward()
    assert theta.grad is not None
    assert theta.grad.shape == shape
