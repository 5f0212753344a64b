"""Second derivatives of a finite sum on some of its blocks, judged on all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad.errors import InputError, TransformError
from hypergrad.implicit.curvature import Point
from hypergrad.implicit.linearise import Linearisation
from hypergrad.implicit.mapped import Mapped
from hypergrad.linear.operator import Operator
from hypergrad.objective import Objective
from hypergrad.settings import check_max_steps
from hypergrad.stochastic.minibatched import Minibatched, sampled
from hypergrad.tree import Phi, Theta, leaves


@dataclass(frozen=True, slots=True, kw_only=True)
class Subsampled:
    """The Hessian for a :class:`Minibatched` lower level that is too large to keep at once.

    The solver's products are taken on ``blocks`` fixed blocks, whose graph is kept. The gradient,
    the cross product J v and the products that judge the answer are taken on all data, one block
    after the other, keeping none. So the certificate's residual is that of the whole Hessian, and
    CG, which restarts from the whole residual as long as that halves it, reaches the answer on all
    data where the blocks' Hessian is close enough to it: that is iterative refinement. All restarts
    share CG's ``max_steps``, and each stops where the blocks tell it no more.

    Attributes:
        blocks: number of blocks that serve the solver's products; all of them if there are fewer.
        key: key of the first of them; see `Minibatched.batch`.
    """

    blocks: int
    key: int = 0

    def __post_init__(self) -> None:
        check_max_steps("Subsampled's blocks", self.blocks, least=1)
        if self.key < 0:
            raise InputError(f"Subsampled got key={self.key}; count from 0.")

    def linearise(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        *,
        needed: Sequence[bool] | None = None,
    ) -> Point:
        """See :class:`Curvature`.

        Raises:
            InputError: the lower objective is not :class:`Minibatched`.
            TransformError: theta or phi is mapped by a transform.
        """
        if isinstance(lower, Mapped):
            raise TransformError(
                "Subsampled takes one problem at a time, and vmap, jacrev, jacfwd or hessian maps "
                "the lower objective; use curvature=Hessian(), or torch.autograd.grad."
            )
        whole = sampled(lower, "lower")
        count = min(self.blocks, whole.blocks)
        none = [False] * len(leaves(theta))
        some = [
            Linearisation(whole.batch(self.key + i), theta, phi, needed=none) for i in range(count)
        ]

        def quick(vector: Tensor) -> Tensor:
            return torch.stack([part.product(vector) for part in some]).mean(dim=0)

        def product(vector: Tensor) -> Tensor:
            return _mean(whole, theta, phi, none, lambda part: [part.product(vector)])[0]

        def cross(vector: Tensor) -> list[Tensor]:
            return _mean(whole, theta, phi, needed, lambda part: part.cross(vector))

        value, gradient = _mean(
            whole, theta, phi, none, lambda part: [part.values, part.gradient], twice=False
        )
        operator = Operator(quick, exact=product)
        return Point(value.shape, value, gradient, operator, cross)


def _mean(
    whole: Minibatched[Theta, Phi],
    theta: Theta,
    phi: Phi,
    needed: Sequence[bool] | None,
    part: Callable[[Linearisation[Theta, Phi]], list[Tensor]],
    *,
    twice: bool = True,
) -> list[Tensor]:
    """The mean of something over all blocks, none of which is kept."""
    sums: list[Tensor] = []
    for index in range(whole.blocks):
        found = part(Linearisation(whole.block(index), theta, phi, needed=needed, twice=twice))
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    return [total / whole.blocks for total in sums]
