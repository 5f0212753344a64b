"""Random bilevel problems of a given size, condition number and batch shape, from a seed.

Spectra are prescribed: eigenvectors are a random orthogonal basis, eigenvalues run from L/kappa to
L, evenly in the logarithm up to a jitter of a quarter of their spacing either way. Well separated
eigenvalues keep conjugate gradients away from early termination, near which v_N is an
ill-conditioned function of its data (theory.md, section 1).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, fields, is_dataclass
from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float64

from verification.families import LC, Exp, Family, LeastSquares, Log, Quad
from verification.families.base import Batch, matvec, transposed

Generator: TypeAlias = np.random.Generator


@dataclass(frozen=True)
class Instance:
    """A drawn family with the point it is looked at: theta, and starts for phi and the adjoint."""

    family: Family
    theta: Float64[np.ndarray, " p"]
    phi0: Float64[np.ndarray, "*batch q"]
    v0: Float64[np.ndarray, "*batch q"]

    def tensors(
        self, dtype: torch.dtype = torch.float64
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """theta, phi0 and v0 for torch."""
        arrays = (self.theta, self.phi0, self.v0)
        theta, phi0, v0 = (torch.tensor(array, dtype=dtype) for array in arrays)
        return theta, phi0, v0


def spectrum(
    rng: Generator, batch: Batch, size: int, largest: float, condition: float
) -> Float64[np.ndarray, "*batch q"]:
    """Eigenvalues from largest/condition to largest; a single one is the largest."""
    if size == 1:
        return np.full((*batch, 1), largest)
    jitter = rng.uniform(-0.25, 0.25, (*batch, size))
    jitter[..., [0, -1]] = 0.0
    exponent = (np.arange(size) + jitter) / (size - 1) - 1
    return np.asarray(largest * condition**exponent)


def symmetric(
    rng: Generator, eigenvalues: Float64[np.ndarray, "*batch q"]
) -> Float64[np.ndarray, "*batch q q"]:
    """A matrix with these eigenvalues and a random orthonormal basis, symmetric to the last bit."""
    size = eigenvalues.shape[-1]
    basis = np.linalg.qr(rng.standard_normal((*eigenvalues.shape, size)))[0]
    matrix = basis @ (eigenvalues[..., None] * transposed(basis))
    return np.asarray((matrix + transposed(matrix)) / 2)


def _upper(rng: Generator, batch: Batch, p: int, q: int) -> LeastSquares:
    rows = q + 1
    return LeastSquares(
        P=rng.standard_normal((*batch, rows, q)) / np.sqrt(q),
        t=rng.standard_normal((*batch, rows)),
        Q=rng.standard_normal((*batch, p, q)) / np.sqrt(q),
        r=rng.uniform(0.1, 1.0, batch),
    )


def _instance(rng: Generator, family: Family, theta: np.ndarray) -> Instance:
    shape = (*family.batch, family.lower_size)
    note(family, theta)
    return Instance(family, theta, rng.standard_normal(shape), rng.standard_normal(shape))


_noted: ContextVar[set[bytes] | None] = ContextVar("_noted", default=None)


@contextmanager
def noting() -> Iterator[set[bytes]]:
    """A set that gathers a digest of every problem drawn inside: equal problems count once."""
    digests: set[bytes] = set()
    token = _noted.set(digests)
    try:
        yield digests
    finally:
        _noted.reset(token)


def note(family: Any, theta: Float64[np.ndarray, " p"]) -> None:
    """Count a problem: the data of a family (any dataclass of arrays) and theta."""
    if (digests := _noted.get()) is not None:
        digests.add(_digest((family, theta)).digest())


def _digest(data: Any) -> Any:
    # 12 bytes: two of 1e6 different problems agree with a chance of 1e-17
    made = blake2b(type(data).__name__.encode(), digest_size=12)
    if is_dataclass(data):
        data = tuple(getattr(data, field.name) for field in fields(data))
    for part in data if isinstance(data, tuple) else (data,):
        if isinstance(part, tuple) or is_dataclass(part):
            made.update(_digest(part).digest())
        else:
            array = np.ascontiguousarray(part)
            made.update(repr(array.shape).encode())
            made.update(array.tobytes())
    return made


def _scale(rng: Generator) -> float:
    """A curvature between 1/10 and 10: nothing may hinge on L = 1."""
    return float(10 ** rng.uniform(-1, 1))


def quad(*, seed: int, batch: Batch, p: int, q: int, condition: float) -> Instance:
    """A Quad instance with kappa = condition in every task."""
    rng = np.random.default_rng(seed)
    L = _scale(rng)
    A = symmetric(rng, spectrum(rng, batch, q, L, condition))
    family = Quad(
        A=A,
        # of size sqrt(mu L): phi* neither drowns in B theta nor ignores it
        B=rng.standard_normal((*batch, q, p)) * L / np.sqrt(condition * p),
        c=matvec(A, rng.standard_normal((*batch, q))),
        upper=_upper(rng, batch, p, q),
    )
    return _instance(rng, family, rng.standard_normal(p))


def lc(*, seed: int, batch: Batch, p: int, q: int, condition: float) -> Instance:
    """An LC instance with kappa = condition by its constants mu and L in every task."""
    rng = np.random.default_rng(seed)
    L = _scale(rng)
    # a is a share of L - mu, so that lam_max(A) = L - a >= mu and (lam_max(A) + a)/mu = condition
    share = float(rng.uniform(0.2, 0.5))
    a = share * L * (1 - 1 / condition)
    A = symmetric(rng, spectrum(rng, batch, q, L - a, (L - a) * condition / L))
    family = LC(
        A=A,
        B=rng.standard_normal((*batch, q, p)) * L / np.sqrt(condition * p),
        c=matvec(A, rng.standard_normal((*batch, q))),
        a=np.full(batch, a),
        W=rng.standard_normal((*batch, q, p)) / np.sqrt(p),
        P=rng.standard_normal((*batch, q + 1, q)) / np.sqrt(q),
        R=rng.standard_normal((*batch, q + 1, p)) / np.sqrt(p),
        t=rng.standard_normal((*batch, q + 1)),
        w=rng.uniform(0.5, 2.0, batch),
        r=rng.uniform(0.1, 1.0, batch),
    )
    return _instance(rng, family, rng.standard_normal(p))


def exp(*, seed: int, batch: Batch, q: int, condition: float) -> Instance:
    """An Exp instance; kappa is at most max(condition, 2) (p = q).

    X'X <= L/2 I and e^theta within [L/condition, L/2] give L/condition I <= H <= L I.
    """
    rng = np.random.default_rng(seed)
    L = _scale(rng)
    rows = q + 2
    left = np.linalg.qr(rng.standard_normal((*batch, rows, q)))[0]
    root = symmetric(rng, np.sqrt(spectrum(rng, batch, q, L / 2, condition)))
    theta = np.log(L / 2) + rng.uniform(min(np.log(2 / condition), 0.0), 0.0, q)
    family = Exp(
        X=left @ root,
        y=rng.standard_normal((*batch, rows)) * np.sqrt(L),
        upper=_upper(rng, batch, q, q),
    )
    return _instance(rng, family, theta)


def log(*, seed: int, batch: Batch, q: int, condition: float) -> Instance:
    """A Log instance; kappa by its constants is at most max(condition, 2) (p = q).

    |X|^2/(4n) = L/2 and e^theta within [L/condition, L/2] give mu >= L/condition.
    """
    rng = np.random.default_rng(seed)
    L = _scale(rng)
    rows = 2 * q + 2
    X = rng.standard_normal((*batch, rows, q))
    size = np.linalg.norm(X, ord=2, axis=(-2, -1))
    X = X * np.asarray(np.sqrt(2 * rows * L) / size)[..., None, None]
    theta = np.log(L / 2) + rng.uniform(min(np.log(2 / condition), 0.0), 0.0, q)
    family = Log(X=X, upper=_upper(rng, batch, q, q))
    return _instance(rng, family, theta)
