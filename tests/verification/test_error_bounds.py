"""The bounds of Theorems A and B: attained on sharp problems, and the library's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hypergrad.theory import Proven, a_priori_bound
from verification.claims.certificates import proven
from verification.claims.error_bounds import cases, sharp
from verification.oracles import adjoint, finite_steps, gradient
from verification.oracles.bounds import a_posteriori, a_priori
from verification.problems.base import norm


@pytest.mark.parametrize("seed", range(3))
def test_both_bounds_are_attained_on_sharp_problems(seed: int) -> None:
    instance = sharp(np.random.default_rng(seed))
    family, theta = instance.family, instance.theta
    step_size = 0.6 / float(family.constants(theta).smoothness.max())
    counts = {"steps": 4, "max_steps": 1}
    cold = np.zeros_like(instance.v0)
    end = finite_steps(family, theta, instance.phi0, cold, **counts, step_size=step_size)
    error = float(np.linalg.norm(end.mean - gradient(family, theta)))
    before = a_priori(family, theta, instance.phi0, None, **counts, step_size=step_size)
    after = a_posteriori(family, theta, end.phi, end.v)
    # of sums of a dozen terms that do not cancel
    assert float(before.mean()) == pytest.approx(error, rel=1e-12)
    assert float(after.mean()) == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_theorem_a_in_numpy_and_in_the_library_agree(seed: int) -> None:
    for case in cases(seed):
        instance = case.instance
        family, theta = instance.family, instance.theta
        distance = norm(instance.phi0 - family.minimiser(theta))
        k = family.constants(theta, radius=float(distance.max()))
        in_phi = family.upper_gradients(theta, family.minimiser(theta))[1]
        away = Proven(torch.tensor(norm(instance.v0 - adjoint(family, theta))))
        library = a_priori_bound(
            proven(k, upper_gradient=norm(in_phi)),
            **case.counts,
            distance=Proven(torch.tensor(distance)),
            adjoint_distance=away if case.warm else None,
        )
        v0 = instance.v0 if case.warm else None
        ours = a_priori(family, theta, instance.phi0, v0, **case.counts)
        # powers of up to 250 steps of numbers rounded to u; tau^N and q^K may underflow to 0
        assert np.allclose(torch.as_tensor(library.value).numpy(), ours, rtol=1e-11, atol=1e-30)
