"""Distance of phi from the minimiser, estimated from the adjoint that backward has anyway.

To first order the minimiser is at ``phi - H^-1 r`` with ``r = d g/d phi``. The length of that step
relative to phi does not depend on the units of phi, theta, g or f. It is bounded from below:

- where the adjoint was solved by a factor of H, by the step itself;
- else, for no product, by ``|<c, H^-1 r>| <= |c| |H^-1 r|`` and ``<c, H^-1 r> = <v, r>``;
- where that is not enough to tell, by a few steps of conjugate gradients on ``H d = r``, whose
  iterates grow in length (Hestenes and Stiefel 1952), by the closed form, or, where H is not
  positive definite, by :func:`hypergrad.linear.gmres.shortest`.

For an equation, F stands for r and ``A = dF/dphi`` for H. A dense solve has factorised A', which
solves with A, too.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.guards import noting
from hypergrad.implicit.certificate import NEAR
from hypergrad.implicit.curvature import Point
from hypergrad.linear.automatic import least_length
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.solution import Solution
from hypergrad.linear.vectors import norm, ratio
from hypergrad.tree import flatten, leaves

# |r| over the least curvature met bounds the step from above, but for how far that curvature is
# from the least there is: directions of conjugate gradients come within this factor of it.
_SAFE = 100.0
# rounding of r, in units of eps |H| |phi|
_ROUNDING = 10.0


def newton_step(
    point: Point,
    phi: Any,
    solution: Solution,
    predicted: Float[Tensor, "*batch"],
    slope: Float[Tensor, "*batch"],
    size: Float[Tensor, "*batch"],
) -> Float[Tensor, "*batch"]:
    """A lower bound on ``|H^-1 r| / |phi|`` for each task; 0 where r is rounding.

    Args:
        point: the condition, linearised at phi.
        phi: the tree that was differentiated.
        solution: v with its evidence.
        predicted: ``(*batch,)`` ``<v, r>``.
        slope: ``(*batch,)`` ``|r|``.
        size: ``(*batch,)`` ``|c|``.
    """
    r, hessian = point.gradient, point.hessian
    # leaf by leaf: phi as one vector would be a copy of it
    each = [norm(flatten([leaf.detach()], point.batch)) for leaf in leaves(phi)]
    length = each[0] if len(each) == 1 else norm(torch.stack(each, dim=-1))
    inverse = _factorised(hessian)
    if inverse is not None and noting() is None:
        step = ratio(norm(inverse(r)), length)
    else:
        share = ratio(predicted.abs(), size * length)
        if noting() is not None or not share.numel():  # whether to solve takes looks at values
            return share
        curvature = torch.minimum(solution.curvature.abs(), ratio(size, norm(solution.x)))
        above = ratio(slope, curvature * length)
        if bool(((share > NEAR) | (above * _SAFE <= NEAR)).all()):
            step = share
        else:
            budget = max(1, solution.matvecs // 3)
            step = torch.maximum(share, ratio(least_length(hessian, r, budget), length))
    far = step > NEAR
    if far.any() if far.ndim else far:
        step = torch.where(_is_rounding(hessian, r, slope, length), 0.0, step)
    return step


def _factorised(hessian: Operator) -> LinearMap | None:
    """The product with H^-1 by a factor that a solve has left, for an r as of ``newton_step``."""
    halves = hessian.halves
    if halves is None:
        return hessian.inverse
    known = halves.forward.inverse or halves.transposed.inverse_transposed
    if known is None:
        return None
    solve = known
    return lambda r: solve(r.chunk(2, dim=-1)[1])  # r is (0, F)


def _is_rounding(hessian: Operator, r: Tensor, slope: Tensor, length: Tensor) -> Tensor:
    """True where r is no more than rounding of the gradient, ``eps |H| |phi|``.

    Rounding points in no direction, so that ``|H r| / |r|`` is about the root mean square of H's
    eigenvalues, at least ``|H| / sqrt(n)``.
    """
    eps = torch.finfo(r.dtype).eps
    stretch = ratio(norm(hessian.exact(r)), slope)
    rounding: Tensor = _ROUNDING * eps * r.shape[-1] ** 0.5 * stretch * length
    return slope <= rounding
