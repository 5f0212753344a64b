"""Minimal residuals for a batch of symmetric systems, definite or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.linear.krylov import Run, all_ended, check_stopping, iterate
from hypergrad.linear.operator import Kind, LinearMap, Operator
from hypergrad.linear.solution import Solution, Status
from hypergrad.linear.vectors import dot, norm


@dataclass(frozen=True, slots=True, kw_only=True)
class MINRES:
    """The least residual over the Krylov space of a symmetric A (Paige and Saunders 1975).

    For a stationary point that is no minimiser but is meant: H may be indefinite, its inverse is
    all that the chain rule asks for. Indefiniteness is no failure here. With eigenvalues in
    ``[-L, -mu]`` and ``[mu, L]`` the residual falls by ``(kappa - 1)/(kappa + 1)`` every two steps
    (Greenbaum 1997, section 3.1); for a definite A the residual never exceeds CG's. A step costs
    one product and two vectors more than CG's.

    Rounding costs up to ``eps kappa^2`` of the residual, where CG pays ``eps kappa`` (Sleijpen, van
    der Vorst and Modersitzki 2000). The restarts win it back for kappa below ``1/sqrt(eps)``, which
    is 7e7 in float64 and 3e3 in float32.

    Where A is singular and b not in its range, the residual ends at its least value, not at zero:
    x is then a least-squares solution, and STAGNATED. Stopping, restarting and verifying are CG's.

    Attributes:
        rtol: relative tolerance on the residual; 0 asks for ``max_steps`` steps.
        atol: absolute tolerance on the residual's norm.
        max_steps: at most this many steps; None means 10 n.
        check_every: steps between two looks for stopped tasks; None: the default of CG.
    """

    needs: ClassVar[Kind] = Kind.SYMMETRIC
    rtol: float = 1e-6
    atol: float = 0.0
    max_steps: int | None = None
    check_every: int | None = 1

    def __post_init__(self) -> None:
        check_stopping("MINRES", self.rtol, self.atol, self.max_steps, self.check_every)

    @torch.no_grad()
    def solve(
        self,
        apply: LinearMap,
        rhs: Float[Tensor, "*batch n"],
        start: Float[Tensor, "*batch n"] | None = None,
    ) -> Solution:
        """Solve ``A x = b`` for each task; see :class:`LinearSolver`."""
        product = Operator(apply)
        return iterate(
            lambda *sweep: _sweep(self.check_every, *sweep),
            product,
            rhs,
            start,
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            check_every=self.check_every,
        )


def _sweep(
    check_every: int | None,
    product: LinearMap,
    run: Run,
    goal: Tensor,
    active: Tensor,
    budget: int,
) -> None:
    """Lanczos' tridiagonal matrix T, reduced to triangular form by one rotation a step; see Sweep.

    Letters as in Paige and Saunders 1975, section 6: alpha and beta are T's entries, (cs, sn) the
    rotation, (delta, gamma) with eps two steps back a column of the triangle, phi its right-hand
    side, and w a column of ``V R^{-1}``, along which x moves.
    """
    began = active
    beta = norm(run.residual)
    v_old, w, w_old = (torch.zeros_like(run.x) for _ in range(3))
    nought, one = beta.new_zeros(()), beta.new_ones(())
    v = torch.where(active[..., None], run.residual / beta[..., None], nought)
    phi, cs, sn = beta, -torch.ones_like(beta), torch.zeros_like(beta)
    dbar = eps = size = torch.zeros_like(beta)
    beta = torch.zeros_like(beta)  # nothing comes before the first vector
    fault = torch.ones_like(phi)
    negligible = torch.finfo(phi.dtype).eps ** 0.5
    for step in range(budget):
        av = product(v)
        alpha = dot(v, av)
        u = torch.addcmul(av, alpha[..., None], v, value=-1)
        u.addcmul_(beta[..., None], v_old, value=-1)
        beta, before = norm(u), beta
        run.curvature = torch.where(active, torch.fmin(run.curvature, alpha), run.curvature)

        delta = cs * dbar + sn * alpha
        gbar = sn * dbar - cs * alpha
        eps, eps_old = sn * beta, eps
        dbar = -cs * beta
        # |A r| = phi |(gbar, dbar)|, and |A| is at least the norm of any column of T. An r with
        # |A r| <= sqrt(eps) |A| |r| needs kappa >= 1/sqrt(eps), where rounding, eps kappa^2 (see
        # above), leaves MINRES no correct digit: the residual is the least there is.
        size = torch.maximum(size, torch.hypot(torch.hypot(alpha, beta), before))
        margin = torch.hypot(gbar, dbar) - negligible * size
        fault = torch.where(active, margin, fault)
        active = active & (margin > 0)

        gamma = torch.where(active, torch.hypot(gbar, beta), one)
        cs, sn = gbar / gamma, beta / gamma
        length = torch.where(active, cs * phi, nought)[..., None]
        w_new = torch.addcmul(v, eps_old[..., None], w_old, value=-1)
        w_new = w_new.addcmul_(delta[..., None], w, value=-1) / gamma[..., None]
        w_old, w = w, torch.where(active[..., None], w_new, w)
        run.x.addcmul_(length, w)
        run.steps += active
        phi = sn * phi
        active = active > (phi <= goal)  # active and not there yet
        if all_ended(active, step, check_every):
            break
        v_old, v = v, torch.where(active[..., None], u / beta[..., None], nought)
    run.end(began, active, fault, Status.STAGNATED)
