"""What a solver's answer is worth: its residual by a product that was seen, not reported."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import may_look
from hypergrad.linear.remembering import remembering
from hypergrad.linear.solution import LinearMap, Solution, Status, relative


class Witness:
    """Judges a solver's answer.

    A solver that ends by the product with its own x, as this library's do, is judged by that
    product; any other by one more, whatever it reports. A value is looked at only where that costs
    nothing.

    Attributes:
        map: what the solver is given; it knows what the map knows.
    """

    def __init__(self, apply: LinearMap) -> None:
        self.map = remembering(apply)

    def examine(self, solution: Solution, rhs: Float[Tensor, "*batch n"]) -> Solution:
        """The solution with the residual of its x, and DENIED where it had claimed a smaller one.

        A claim is denied by more than rounding: past twice what was reported, and past
        ``sqrt(eps)``, which a residual's rounding, ``eps kappa`` (theory.md, section 6), exceeds
        only where kappa leaves less than half of the digits.

        Raises:
            InputError: an answer that does not have the shape of the right-hand side.
        """
        each = (solution.status, solution.residual, solution.curvature, solution.steps)
        if solution.x.shape != rhs.shape or any(part.shape != rhs.shape[:-1] for part in each):
            raise InputError(
                f"the solver answered a right-hand side of shape {tuple(rhs.shape)} with x of "
                f"shape {tuple(solution.x.shape)} and status, residual, curvature and steps of "
                f"shapes {[tuple(part.shape) for part in each]}; x must be like the right-hand "
                "side, and the rest have one value for each task."
            )
        with torch.no_grad():
            image, products = self.map.image(solution.x)
        solution = replace(solution, matvecs=solution.matvecs + products)
        true = relative(rhs - image, rhs)
        if may_look(true) and bool((true <= solution.residual).all()):
            return solution
        allowed = (2 * solution.residual).clamp(min=torch.finfo(rhs.dtype).eps ** 0.5)
        denied = ~(true <= allowed)  # True for NaN, too
        status = solution.status.masked_fill(
            denied & (solution.status == Status.CONVERGED), Status.DENIED
        )
        return replace(
            solution,
            status=status,
            # as reported where that is no less; a NaN stays one
            residual=torch.where(true <= solution.residual, solution.residual, true),
        )
