"""Generalised minimal residuals for a batch of systems of any matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.krylov import Run, all_ended, check_stopping, iterate
from hypergrad.linear.operator import LinearMap, Operator
from hypergrad.linear.preconditioners import Preconditioner, prepared
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import norm, scale_of
from hypergrad.settings import check_max_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class GMRES:
    """The least residual over the Krylov space of any A, restarted (Saad and Schultz 1986).

    Between restarts the residual never grows. For a normal A it falls as the eigenvalues allow; for
    another one no bound by eigenvalues holds, and for ``n - 1`` steps it need not fall at all
    (Greenbaum, Ptak and Strakos 1996). With ``restart >= n`` it ends at the solution. Each step
    costs one product, and inner products with all vectors since the restart, which are kept:
    ``restart + 1`` of them for each task.

    A task stops at ``|b - A x| <= max(rtol |b|, atol)``, at ``max_steps``, or as STAGNATED where a
    whole cycle of ``restart`` steps lowers nothing. Verifying is CG's, and so is sweeping again
    where the recurrence claims more than the recomputed residual shows.

    Attributes:
        rtol: relative tolerance on the residual; 0 asks for ``max_steps`` steps.
        atol: absolute tolerance on the residual's norm.
        max_steps: at most this many steps; None means 10 n.
        restart: steps between two restarts, and vectors kept.
        preconditioner: builds an approximate inverse of A, such as
            ``preconditioners.ApproximateInverse``; or your own: the product with one. It is applied
            from the right, so that residuals stay those of A x = b.
        check_every: steps between two looks for stopped tasks; None: the default of CG.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    restart: int = 30
    preconditioner: Preconditioner | LinearMap | None = None
    check_every: int | None = 1

    def __post_init__(self) -> None:
        check_stopping("GMRES", self.rtol, self.atol, self.max_steps, self.check_every)
        check_max_steps("GMRES", self.restart, least=1, name="restart")

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; see :class:`LinearSolver`."""
        product = Operator(apply)
        inverse = prepared(self.preconditioner, product, rhs)
        return iterate(
            lambda *sweep: self._sweep(inverse, *sweep),
            product,
            rhs,
            start,
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            check_every=self.check_every,
        )

    def _sweep(
        self,
        inverse: LinearMap | None,
        product: LinearMap,
        run: Run,
        goal: Tensor,
        active: Tensor,
        budget: int,
    ) -> None:
        """Cycles of at most ``restart`` steps from the current x; see Sweep."""
        began, fault = active, torch.ones_like(goal)
        negligible = torch.finfo(goal.dtype).eps ** 0.5
        while budget > 0:
            before = norm(run.residual)
            length = min(self.restart, budget, max(1, run.x.shape[-1]))
            basis = self._cycle(inverse, product, run, goal, active, length)
            budget -= basis.steps
            after = norm(run.residual)
            # a cycle that lowers nothing would be followed by its like
            lowered = before * (1 - negligible) - after
            lowered = lowered.masked_fill(basis.broken, torch.nan)
            active = active & ~(after <= goal)
            fault = torch.where(active, lowered, fault)
            active = active & (lowered > 0)
            if self.check_every is not None and not bool(active.any()):
                break
        run.end(began, active, fault, Status.STAGNATED)

    def _cycle(
        self,
        inverse: LinearMap | None,
        product: LinearMap,
        run: Run,
        goal: Tensor,
        active: Tensor,
        length: int,
    ) -> Arnoldi:
        """The steps between two restarts; writes x and the residual, without a product for it."""
        basis = Arnoldi(run.residual, length, active)
        for step in range(length):
            vector = basis.last()
            run.steps += basis.active
            basis.extend(product(vector if inverse is None else inverse(vector)), goal)
            if all_ended(basis.active, step, self.check_every):
                break
        along, image = basis.combination()
        run.x += along if inverse is None else inverse(along)
        run.residual = run.residual - image
        return basis


class Arnoldi:
    """An orthonormal basis of each task's Krylov space, and the QR of its Hessenberg matrix.

    ``A V = W H`` with W one vector longer than V, and ``Q H = R`` by one rotation a step, which
    turns ``|r| e_1`` into g: the least residual after k steps is ``|g_(k+1)|``.

    Attributes:
        active: ``(*batch,)`` the tasks that go on.
        broken: ``(*batch,)`` the tasks that met a product that is not finite.
        steps: number of steps taken.
    """

    def __init__(self, residual: Float[Tensor, "*batch n"], length: int, active: Tensor) -> None:
        batch, n = residual.shape[:-1], residual.shape[-1]
        beta = norm(residual)
        self.active = active & (beta > 0)
        self.broken = torch.zeros_like(self.active)
        self.steps = 0
        self._length = torch.where(self.active, beta, 0.0)
        self._basis = residual.new_empty(*batch, length + 1, n)  # W, a vector in each row
        self._basis[..., 0, :] = _divided(residual, beta, self.active)
        self._hessenberg = residual.new_zeros(*batch, length + 1, length)
        self._triangle = residual.new_zeros(*batch, length, length)
        self._rotations: list[tuple[Tensor, Tensor]] = []
        self._g = residual.new_zeros(*batch, length + 1)
        self._g[..., 0] = self._length
        self._kept = torch.zeros_like(self._g[..., 1:], dtype=torch.bool)  # the columns of a task

    def last(self) -> Tensor:
        """The newest basis vector; zero for tasks that have stopped."""
        return self._basis[..., self.steps, :]

    def extend(self, image: Tensor, goal: Tensor) -> None:
        """Orthogonalise A's product with the last vector; tasks at their goal stop.

        Twice, by all vectors at once: a second time gives orthogonality to rounding (Giraud,
        Langou, Rozloznik and van den Eshof 2005).
        """
        k, before = self.steps, self._basis[..., : self.steps + 1, :]
        size = norm(image)
        negligible = 10 * torch.finfo(image.dtype).eps * size
        column = torch.zeros_like(self._g[..., : k + 1])
        for _ in range(2):
            part = before @ image[..., None]
            image = image - (before.mT @ part)[..., 0]
            column = column + part[..., 0]
        below = norm(image)
        below = torch.where(below > negligible, below, 0.0)  # rounding is no direction
        entries = list(column.unbind(-1))
        for j, (cos, sin) in enumerate(self._rotations):
            upper, lower = entries[j], entries[j + 1]
            entries[j], entries[j + 1] = cos * upper + sin * lower, cos * lower - sin * upper
        diagonal = torch.hypot(entries[k], below)
        # a column that adds nothing: A is singular on this space, or the product is not finite
        use = self.active & (diagonal > negligible) & size.isfinite()
        self.broken |= self.active & ~size.isfinite()
        cos, sin = (_divided(part, diagonal, use) for part in (entries[k], below))
        entries[k] = diagonal
        self._rotations.append((torch.where(use, cos, 1.0), sin))
        self._kept[..., k] = use
        self._triangle[..., : k + 1, k] = torch.stack(entries, dim=-1)
        whole = torch.cat([column, below[..., None]], dim=-1)
        self._hessenberg[..., : k + 2, k] = torch.where(use[..., None], whole, 0.0)
        upper = self._g[..., k].clone()
        self._g[..., k] = torch.where(use, cos * upper, upper)
        self._g[..., k + 1] = -sin * upper
        self.active = use & (below > 0) & (self._g[..., k + 1].abs() > goal)
        self._basis[..., k + 1, :] = _divided(image, below, self.active)
        self.steps = k + 1

    def combination(self) -> tuple[Tensor, Tensor]:
        """``V y`` for the y of least residual, ``R y = g``, and its image ``A V y = W H y``."""
        k = self.steps
        right = torch.where(self._kept[..., :k], self._g[..., :k], 0.0)[..., None]
        y = torch.linalg.solve_triangular(self._square(), right, upper=True)
        image = self._basis[..., : k + 1, :].mT @ (self._hessenberg[..., : k + 1, :k] @ y)
        return (self._basis[..., :k, :].mT @ y)[..., 0], image[..., 0]

    def inverse_length(self) -> Tensor:
        """``|r| |R^-T e_1|``, see :func:`shortest`."""
        right = torch.zeros_like(self._g[..., : self.steps, None])
        right[..., 0, 0] = torch.where(self._kept[..., 0], self._length, 0.0)
        return norm(torch.linalg.solve_triangular(self._square().mT, right, upper=False)[..., 0])

    def _square(self) -> Tensor:
        """R, with unit columns where a task had stopped: it takes none after its last."""
        k = self.steps
        eye = torch.eye(k, dtype=self._g.dtype, device=self._g.device)
        return torch.where(self._kept[..., None, :k], self._triangle[..., :k, :k], eye)


def _divided(above: Tensor, below: Tensor, where: Tensor) -> Tensor:
    """The quotient for the tasks in a mask, 0 for the others."""
    safe = torch.where(where, below, 1.0)
    if above.ndim > where.ndim:
        return torch.where(where[..., None], above / safe[..., None], 0.0)
    return torch.where(where, above / safe, 0.0)


def shortest(
    transposed: LinearMap, rhs: Float[Tensor, "*batch n"], products: int
) -> Float[Tensor, "*batch"]:
    """A lower bound on ``|A^-1 b|`` from products with A' only, exact after n of them.

    For every w, ``<w, b> = <A' w, A^-1 b>``, so that ``|A^-1 b| >= |<w, b>| / |A' w|``. The best w
    in the Krylov space of A' and b, ``w = V y`` with ``A' V = W H``, ``H = Q' R``, gives
    ``|b| |R^-T e_1|``: of ``max_y (|b| y_1) / |R y|``. It grows with each product.
    """
    scale = scale_of(rhs)
    b = rhs / scale
    with torch.no_grad():
        basis = Arnoldi(b, min(products, b.shape[-1]), torch.ones_like(b[..., 0], dtype=torch.bool))
        nought = torch.zeros_like(b[..., 0])
        for _ in range(min(products, b.shape[-1])):
            basis.extend(transposed(basis.last()), nought)
    return basis.inverse_length() * scale[..., 0]
