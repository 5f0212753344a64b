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

from verification.problems import LC, Exp, Family, Head, LeastSquares, Log, Quad
from verification.problems.base import Batch, matvec, take, transposed

Generator: TypeAlias = np.random.Generator

FAMILIES = ("quad", "lc", "exp", "log")


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


def pick(instance: Instance, index: tuple[int, ...] | np.ndarray) -> Instance:
    """The instance's tasks at an index of the leading dimensions."""
    return Instance(
        family=take(instance.family, index),
        theta=instance.theta,
        phi0=instance.phi0[index],
        v0=instance.v0[index],
    )


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
    if _noted.get() is not None:
        for task in np.ndindex(*family.batch):
            note(take(family, task), theta)
    return Instance(family, theta, rng.standard_normal(shape), rng.standard_normal(shape))


_noted: ContextVar[set[bytes] | None] = ContextVar("_noted", default=None)


@contextmanager
def gathered_tasks() -> Iterator[set[bytes]]:
    """A set that gathers a digest of every task drawn inside: equal ones count once."""
    digests: set[bytes] = set()
    token = _noted.set(digests)
    try:
        yield digests
    finally:
        _noted.reset(token)


def note(task: Any, theta: Float64[np.ndarray, " p"]) -> None:
    """Count a task: its objectives' data (arrays, tuples and dataclasses of them) and theta."""
    if (digests := _noted.get()) is not None:
        digests.add(_digest((task, theta)).digest())


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
    """An Exp instance with kappa in [condition/3, condition] (p = q).

    e^theta is within [L/condition, 3 L/condition]; X'X is singular, and together they reach at
    most L, and at least L (1 - 2/condition).
    """
    rng = np.random.default_rng(seed)
    L = _scale(rng)
    rows = q + 2
    theta, size = _penalties(rng, q, L, condition)
    left = np.linalg.qr(rng.standard_normal((*batch, rows, q)))[0]
    root = symmetric(rng, np.sqrt(_singular(rng, batch, q, size, condition)))
    family = Exp(
        X=left @ root,
        y=rng.standard_normal((*batch, rows)) * np.sqrt(L),
        upper=_upper(rng, batch, q, q),
    )
    return _instance(rng, family, theta)


def log(*, seed: int, batch: Batch, q: int, condition: float) -> Instance:
    """A Log instance with kappa, by its constants, in [condition/3, condition] (p = q).

    As Exp, with |X|^2/(4n) in place of |X|^2; where the logistic loss has saturated H is smaller.
    """
    rng = np.random.default_rng(seed)
    L = _scale(rng)
    rows = 2 * q + 2
    theta, size = _penalties(rng, q, L, condition)
    left = np.linalg.qr(rng.standard_normal((*batch, rows, q)))[0]
    root = symmetric(rng, np.sqrt(4 * rows * _singular(rng, batch, q, size, condition)))
    family = Log(X=left @ root, upper=_upper(rng, batch, q, q))
    return _instance(rng, family, theta)


def head(
    *, seed: int, batch: Batch, way: int, shot: int, features: int, condition: float
) -> Instance:
    """A Head instance with features drawn around a centre for each class."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((way, features))

    def around(labels: np.ndarray) -> np.ndarray:
        return np.asarray(centres[labels] + 0.7 * rng.standard_normal((*labels.shape, features)))

    labels = np.arange(way * shot) % way
    queries = rng.integers(0, way, (*batch, 2 * way))
    return _head(rng, around(labels), labels, around(queries), queries, way, batch, condition)


def real_head(
    *, seed: int, batch: Batch, way: int, shot: int, features: int, condition: float
) -> Instance:
    """A Head instance on features of real images: scikit-learn's handwritten digits.

    The features are a fixed random projection of the 8 x 8 pixels, through tanh.
    """
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(seed)
    digits = load_digits()
    projection = rng.standard_normal((64, features)) / 8
    seen = np.tanh((digits.data / 8 - 1) @ projection)
    classes = rng.permutation(10)[:way]
    members = [rng.permutation(np.flatnonzero(digits.target == c)) for c in classes]
    labels = np.arange(way * shot) % way
    support = seen[[members[label][i // way] for i, label in enumerate(labels)]]
    queries = rng.integers(0, way, (*batch, 2 * way))
    asked = np.empty((*queries.shape, features))
    for at in np.ndindex(*queries.shape):
        own = members[queries[at]][shot:]
        asked[at] = seen[own[rng.integers(len(own))]]
    return _head(rng, support, labels, asked, queries, way, batch, condition)


def _head(
    rng: Generator,
    support: Float64[np.ndarray, "n d"],
    labels: np.ndarray,
    asked: Float64[np.ndarray, "*batch m d"],
    queries: np.ndarray,
    way: int,
    batch: Batch,
    condition: float,
) -> Instance:
    """With kappa = condition by the constants mu = l2 and L = |X|^2/(2n) + l2 in every task.

    The tasks name the classes differently: each has its own permutation of the labels.
    """
    reach = np.linalg.norm(support, ord=2) ** 2 / (2 * len(support))
    names = np.argsort(rng.random((*batch, way)), axis=-1)
    family = Head(
        y=np.eye(way)[names[..., labels]],
        Z=asked,
        w=np.eye(way)[np.take_along_axis(names, queries, axis=-1)],
        l2=np.full(batch, reach / (condition - 1)),
        r=rng.uniform(0.01, 0.1, batch),
    )
    return _instance(rng, family, support.reshape(-1))


def _penalties(
    rng: Generator, q: int, L: float, condition: float
) -> tuple[Float64[np.ndarray, " q"], float]:
    """Theta with e^theta in [L/condition, 3 L/condition], and what is left up to L."""
    spread = min(3.0, (1 + condition) / 2)
    theta = np.log(L / condition) + rng.uniform(0, np.log(spread), q)
    return theta, L * (1 - spread / condition)


def _singular(
    rng: Generator, batch: Batch, q: int, largest: float, condition: float
) -> Float64[np.ndarray, "*batch q"]:
    """A `spectrum` with its least value, if it has several, replaced by zero."""
    values = spectrum(rng, batch, q, largest, condition)
    if q > 1:
        values[..., 0] = 0.0
    return values


def of_family(family: str, *, seed: int, condition: float = 1e6, tasks: int = 3) -> Instance:
    """A batch shape of (), (T,) or (S, T), sizes and kappa from the seed, for a family by name.

    The condition number asked for is log-uniform in [2, condition], and `condition` itself for one
    seed in twenty; T, S <= tasks; q is in 2..8, p in 1..6 (p = q for Exp and Log).

    Raises:
        ValueError: there is no such family.
    """
    if family not in FAMILIES:
        raise ValueError(f"there is no family {family!r}; there are {FAMILIES}.")
    rng = np.random.default_rng([seed, 1 + FAMILIES.index(family)])
    size = int(rng.integers(2, 9))
    exponent = min(1.0, float(rng.uniform(0, 20 / 19)))
    kappa = 2 * (condition / 2) ** exponent
    S, T = (int(n) for n in rng.integers(1, tasks + 1, 2))
    shapes: tuple[Batch, ...] = ((), (T,), (S, T))
    batch = shapes[int(rng.integers(3))]
    upper = int(rng.integers(1, 7))
    if family == "quad":
        return quad(seed=seed, batch=batch, p=upper, q=size, condition=kappa)
    if family == "lc":
        return lc(seed=seed, batch=batch, p=upper, q=size, condition=kappa)
    if family == "exp":
        return exp(seed=seed, batch=batch, q=size, condition=kappa)
    return log(seed=seed, batch=batch, q=size, condition=kappa)
