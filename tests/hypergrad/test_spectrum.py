"""Lanczos against dense eigenvalues."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hypergrad.constants import Estimated
from hypergrad.errors import InputError, NotFiniteError
from hypergrad.linear.lanczos import lanczos
from hypergrad.theory.spectrum import extreme_eigenvalues
from verification.problems.drawn import lc, quad, spectrum, symmetric

EPS = torch.finfo(torch.float64).eps


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("make", [quad, lc])
def test_all_steps_give_the_eigenvalues_to_rounding(make: object, batch: tuple[int, ...]) -> None:
    assert callable(make)
    instance = make(seed=5, batch=batch, p=3, q=9, condition=1e4)
    theta, phi, _ = instance.tensors()
    exact = np.linalg.eigvalsh(instance.family.hessian(instance.theta, instance.phi0))
    found = extreme_eigenvalues(instance.family.bilevel().lower, theta, phi, steps=9)
    assert isinstance(found.smallest, Estimated)
    assert isinstance(found.largest, Estimated)
    # a symmetric eigenproblem is backward stable: n eps of the norm, for either end
    tolerance = 10 * 9 * EPS * exact[..., -1]
    for one, column in ((found.smallest, 0), (found.largest, -1)):
        assert torch.as_tensor(one.value).shape == batch
        assert np.all(np.abs(np.asarray(one.value) - exact[..., column]) <= tolerance)


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
def test_an_eigenvalue_lies_within_the_error(steps: int) -> None:
    rng = np.random.default_rng(steps)
    matrix = torch.tensor(symmetric(rng, spectrum(rng, (20,), 30, 3.0, 1e3)))
    eigenvalues = torch.linalg.eigvalsh(matrix)
    start = torch.tensor(rng.standard_normal((20, 30)))
    found = lanczos(lambda v: (matrix @ v[..., None])[..., 0], start, steps=steps)
    rounding = 30 * EPS * 3.0
    ends = (
        (found.smallest.value, found.smallest_error),
        (found.largest.value, found.largest_error),
    )
    for ritz, error in ends:
        nearest = (eigenvalues - torch.as_tensor(ritz)[:, None]).abs().amin(-1)
        assert bool((nearest <= error + rounding).all())
    # Rayleigh: mu is estimated from above and L from below
    assert bool((torch.as_tensor(found.smallest.value) >= eigenvalues[:, 0] - rounding).all())
    assert bool((torch.as_tensor(found.largest.value) <= eigenvalues[:, -1] + rounding).all())


def test_few_steps_find_the_ends_of_a_wide_spectrum() -> None:
    eigenvalues = torch.cat([torch.linspace(1, 2, 500), torch.tensor([0.01, 10.0])]).double()
    start = torch.randn(502, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = lanczos(lambda v: eigenvalues * v, start, steps=30)
    assert float(found.smallest.value) == pytest.approx(0.01, rel=1e-6)
    assert float(found.largest.value) == pytest.approx(10.0, rel=1e-12)


@pytest.mark.parametrize("size", [1, 2, 7])
def test_a_start_that_sees_few_eigenvectors(size: int) -> None:
    # the Krylov space ends after one step for the first task, after two for the second
    eigenvalues = torch.arange(1.0, size + 1).double()
    start = torch.zeros(2, size, dtype=torch.float64)
    start[0, 0] = start[1, 0] = start[1, -1] = 1.0
    found = lanczos(lambda v: eigenvalues * v, start, steps=100)
    assert torch.allclose(torch.as_tensor(found.smallest.value), torch.ones(2).double())
    assert torch.allclose(torch.as_tensor(found.largest.value), torch.full((2,), size).double())


def test_a_multiple_of_the_identity() -> None:
    start = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = lanczos(lambda v: 3.0 * v, start, steps=6)
    for ritz in (found.smallest.value, found.largest.value):
        assert torch.allclose(torch.as_tensor(ritz), torch.full((4,), 3.0).double(), rtol=1e-14)


def test_a_saddle_shows() -> None:
    def saddle(theta: Tensor, phi: Tensor) -> Tensor:
        return phi[..., 0] ** 2 - phi[..., 1] ** 2 + (theta * phi).sum(-1)

    phi = torch.zeros(3, 2)
    found = extreme_eigenvalues(saddle, torch.zeros(2), phi)
    assert torch.allclose(torch.as_tensor(found.smallest.value), torch.full((3,), -2.0))


def test_single_precision_and_a_dict() -> None:
    def lower(theta: Tensor, phi: dict[str, Tensor]) -> Tensor:
        return theta * (phi["a"].square().sum(-1) + 5 * phi["b"].square())

    phi = {"a": torch.zeros(3, 4), "b": torch.zeros(3)}
    found = extreme_eigenvalues(lower, torch.tensor(1.0), phi)
    assert torch.as_tensor(found.largest.value).dtype == torch.float32
    assert torch.allclose(torch.as_tensor(found.smallest.value), torch.tensor(2.0))
    assert torch.allclose(torch.as_tensor(found.largest.value), torch.tensor(10.0))


def test_refusals() -> None:
    def lower(theta: Tensor, phi: Tensor) -> Tensor:
        return (theta * phi.square()).sum(-1)

    with pytest.raises(InputError, match="steps=0; it needs at least one"):
        extreme_eigenvalues(lower, torch.ones(2), torch.ones(3, 2), steps=0)
    with pytest.raises(NotFiniteError, match="a Hessian product"):
        lanczos(lambda v: v / 0.0, torch.ones(3, 2), steps=2)
