"""Mean and covariance of theta under sampled batches, exactly (theory.md, section 3).

Where each task's hypergradient is affine, h_i = H_i theta - d_i (Quad with K steps and exact CG),
the first two moments of stochastic upper descent obey a linear recursion, and so does their limit.
Neither simulates anything.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from verification.oracles.outer import Affine


def omega(tasks: int, batch: int, *, replacement: bool) -> float:
    """1 with replacement, (M - b)/(M - 1) without: the finite-population factor."""
    return 1.0 if replacement else (tasks - batch) / (tasks - 1)


def batches(tasks: int, size: int, *, replacement: bool) -> Iterator[tuple[tuple[int, ...], float]]:
    """Every batch, as tasks in ascending order, with its probability."""
    if not replacement:
        for chosen in itertools.combinations(range(tasks), size):
            yield chosen, 1 / math.comb(tasks, size)
        return
    for chosen in itertools.combinations_with_replacement(range(tasks), size):
        orders = math.factorial(size)
        for count in Counter(chosen).values():
            orders //= math.factorial(count)
        yield chosen, orders / tasks**size


@dataclass(frozen=True)
class Moments:
    """First two moments of theta.

    Attributes:
        mean: expectation of theta.
        covariance: covariance matrix of theta.
    """

    mean: Float64[np.ndarray, " p"]
    covariance: Float64[np.ndarray, "p p"]


@dataclass(frozen=True)
class SampledDescent:
    """theta+ = theta - eta mean_{i in B} (H_i theta - d_i), B drawn anew in each step.

    Attributes:
        maps: H_i and d_i of all M tasks, batch (M,).
        eta: upper step size.
        share: omega/b.
    """

    maps: Affine
    eta: float
    share: float

    @property
    def _deviations(self) -> tuple[np.ndarray, np.ndarray]:
        H, d = self.maps.mean
        return self.maps.H - H, self.maps.d - d

    def _noise(self, m: np.ndarray) -> np.ndarray:
        """Mean of g_i g_i' with g_i = (H_i - H) m - (d_i - d)."""
        dH, dd = self._deviations
        g = dH @ m - dd
        return np.asarray(g.T @ g / len(g))

    def step(self, now: Moments) -> Moments:
        """The moments one upper step later.

        Given theta, the batch mean of h_i has the population's mean, and omega/b times the
        population's covariance.
        """
        H, d = self.maps.mean
        G = np.eye(len(d)) - self.eta * H
        dH, _ = self._deviations
        spread = (dH @ now.covariance @ np.swapaxes(dH, -1, -2)).mean(0)
        noise = self.eta**2 * self.share * (spread + self._noise(now.mean))
        return Moments(
            mean=now.mean - self.eta * (H @ now.mean - d),
            covariance=G @ now.covariance @ G.T + noise,
        )

    def stationary(self) -> Moments:
        """The limit: m = H^{-1} d, and the generalised discrete Lyapunov equation for the rest.

        S = G S G' + eta^2 (omega/b) (mean dH_i S dH_i' + mean g_i g_i'), a p^2 x p^2 system.

        Raises:
            ArithmeticError: there is no limit: the map's spectral radius is not below 1.
        """
        H, d = self.maps.mean
        p = len(d)
        G = np.eye(p) - self.eta * H
        dH, _ = self._deviations
        # row-major vec: vec(X S Y') = (X kron Y) vec(S)
        operator = np.kron(G, G)
        for deviation in dH:
            operator += self.eta**2 * self.share / len(dH) * np.kron(deviation, deviation)
        radius = float(np.abs(np.linalg.eigvals(operator)).max())
        if radius >= 1:
            raise ArithmeticError(
                f"sampled descent with eta = {self.eta:.3g} has no stationary covariance: spectral "
                f"radius {radius:.3g}. Take a smaller eta."
            )
        m = np.linalg.solve(H, d)
        noise = self.eta**2 * self.share * self._noise(m)
        S = np.linalg.solve(np.eye(p * p) - operator, noise.reshape(-1)).reshape(p, p)
        return Moments(mean=m, covariance=(S + S.T) / 2)


def squared_gradient(
    at: Moments, H: Float64[np.ndarray, "p p"], d: Float64[np.ndarray, " p"]
) -> float:
    """E|H theta - d|^2."""
    mean = H @ at.mean - d
    return float(mean @ mean + np.trace(H @ at.covariance @ H.T))


def shared_floor(
    H: Float64[np.ndarray, "p p"], covariance: Float64[np.ndarray, "p p"], eta: float, share: float
) -> float:
    """The limit of E|grad F|^2 where all tasks share a symmetric H, in closed form.

    (omega/b) sum_j eta h_j/(2 - eta h_j) Sigma_jj, Sigma the covariance of d_i over the tasks in
    the eigenbasis of H: exactly proportional to omega/b.
    """
    h, basis = np.linalg.eigh(H)
    variances = np.diag(basis.T @ covariance @ basis)
    return float(share * (eta * h / (2 - eta * h) * variances).sum())
