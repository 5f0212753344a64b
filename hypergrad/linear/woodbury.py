"""The direct solve that an objective knows, such as Woodbury's identity for few-shot heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.solution import Solution, direct


@dataclass(frozen=True, slots=True, kw_only=True)
class Woodbury:
    """Use the lower objective's own inverse (``HessianForm.inverse``), then verify it.

    For a linear head on n support examples with n far below the number of features this is one
    solve in the n-dimensional Gram space. The answer's residual is recomputed by autodiff of the
    objective's values, so an inverse that belongs to another objective is reported.

    Attributes:
        rtol: the recomputed relative residual above which the solution is not called converged.
        refinements: times that the inverse is applied again, to the residual: each gains the
            digits that the identity's cancellation lost.
    """

    rtol: float = 1e-6
    refinements: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1 or self.refinements < 0:
            raise InputError(
                f"Woodbury got rtol={self.rtol}, refinements={self.refinements}; it needs rtol in "
                "(0, 1) and refinements >= 0."
            )

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; ``start`` has no use here.

        Raises:
            InputError: the map knows no inverse.
        """
        product = Operator(apply)
        if product.form is None:
            raise InputError(
                "Woodbury needs an objective that knows its inverse (hypergrad.objectives, or your "
                "own with a hessian method); use CG for one that does not."
            )
        x = product.form.inverse(rhs)
        for _ in range(self.refinements):
            x = x + product.form.inverse(rhs - product(x))
        return direct(product, x, rhs, rtol=self.rtol)
