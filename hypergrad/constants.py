"""Constants of a bilevel problem, each marked as proven or as estimated.

They and the bounds made of them are this library's own derivation (theory.md, sections 0 and 2),
not the paper's. What is computed from them is :class:`Proven` only if every one of them is.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.equality import by_value
from hypergrad.errors import InputError


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class Proven:
    """A number that was derived: what follows from such numbers alone is a theorem.

    Attributes:
        value: a number, or ``(*batch,)`` a number for each task.
    """

    value: float | Float[Tensor, "*batch"]


@by_value
@dataclass(frozen=True, slots=True, eq=False)
class Estimated:
    """A number that was measured or guessed: whatever is computed from it is no guarantee.

    Attributes:
        value: a number, or ``(*batch,)`` a number for each task.
    """

    value: float | Float[Tensor, "*batch"]


Known: TypeAlias = Proven | Estimated
"""A number and whether it is proven; ``isinstance(bound, Proven)`` tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """Constants of a problem, which the error bounds need (theory.md, section 0).

    They need to hold only where they are used: the a-posteriori bound uses them on the segment
    from the phi that was differentiated to the minimiser phi*, the a-priori one on the ball around
    phi* that the start lies in. Quadratics have ``hessian_lipschitz = coupling_lipschitz = 0``.

    With ``H = d2g/dphi2`` and ``J = d2g/dtheta dphi``, norms Euclidean and spectral:

    Attributes:
        strong_convexity: mu, a lower bound on the eigenvalues of H.
        coupling: L12, a bound on ``|J|``.
        upper_coupling: lam12, Lipschitz constant of ``d f/d theta`` in phi.
        upper_smoothness: lam22, Lipschitz constant of ``d f/d phi`` in phi.
        hessian_lipschitz: rH, Lipschitz constant of H in phi.
        coupling_lipschitz: rJ, Lipschitz constant of J in phi.
        smoothness: L, an upper bound on the eigenvalues of H; a priori only.
        adjoint_norm: V, a bound on ``|v*|``, ``H v* = d f/d phi`` at the minimiser; a priori only.
        upper_gradient: b*, a bound on ``|d f/d phi|`` at the minimiser; a priori only.
        hessian_lipschitz_theta: rH_t, Lipschitz constant of H in theta; warm starts only.
    """

    strong_convexity: Known
    coupling: Known
    upper_coupling: Known
    upper_smoothness: Known
    hessian_lipschitz: Known
    coupling_lipschitz: Known
    smoothness: Known | None = None
    adjoint_norm: Known | None = None
    upper_gradient: Known | None = None
    hessian_lipschitz_theta: Known | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            given: object = getattr(self, field.name)
            if given is None and field.default is None:
                continue
            if not isinstance(given, Proven | Estimated):
                raise InputError(
                    f"{field.name} is {given!r}; say where it comes from: Proven(...) if it was "
                    "derived, Estimated(...) if it was measured or guessed."
                )
            check_known(given, field.name)
        mu = number(self.strong_convexity)
        if not bool((mu > 0).all()):
            raise InputError(
                f"strong_convexity is {self.strong_convexity}; the bounds need mu > 0. "
                "Regularise the lower objective."
            )
        if self.smoothness is not None and bool((number(self.smoothness) < mu).any()):
            raise InputError(
                f"smoothness is {self.smoothness}, below strong_convexity, "
                f"{self.strong_convexity}; no matrix has such eigenvalues."
            )

    @property
    def proven(self) -> bool:
        """True if every constant given is proven."""
        return not any(isinstance(getattr(self, field.name), Estimated) for field in fields(self))


def check_known(known: Known, name: str) -> None:
    """Raise for a bound that bounds nothing.

    Raises:
        InputError: NaN, infinite or negative.
    """
    value = number(known)
    if not bool((value.isfinite() & (value >= 0)).all()):
        raise InputError(f"{name} is {known}; it must be finite and not negative.")


def number(known: Known) -> Float[Tensor, "*batch"]:
    """The number in float64, which holds Python's as they are.

    A tensor's is widened, too: of a batch in float32 and a number without dimensions in float64,
    torch would compare the former with the latter rounded to float32.
    """
    return torch.as_tensor(known.value, dtype=torch.float64)


def conclude(value: Float[Tensor, "*batch"], *premises: Known) -> Known:
    """The value as Proven if all its premises are, else as Estimated."""
    if any(isinstance(premise, Estimated) for premise in premises):
        return Estimated(value)
    return Proven(value)


def require(constants: Constants, name: str, purpose: str) -> Known:
    """A constant that may be absent.

    Raises:
        InputError: the constant is absent.
    """
    known: Known | None = getattr(constants, name)
    if known is None:
        raise InputError(f"{purpose} needs Constants(..., {name}=...), which was not given.")
    return known
