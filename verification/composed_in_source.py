"""Bugs of composition as changes of hypergrad's source text, for checkouts.

A derivative at the wrong iterate has no line of its own: the kernel is given phi_K and never sees
phi_0. So descent is made to leave its first and its last but one iterate where the kernel finds
them, and the kernel to use them. Damping by a share of mu, which the library does not know, takes
mu from the dense Hessian. In a running library these bugs are subjects; see
`verification.subjects.bugs`.
"""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float

from verification.subjects.planting import SourceBug

Product = Callable[[torch.Tensor], torch.Tensor]

_DESCENT = "return descend(self, steps, lower, theta, phi, self._tolerance, whole=self.compiled)"
_LEAVE = SourceBug(
    "hypergrad.lower.gradient_descent",
    _DESCENT,
    "import hypergrad.tree as left\n"
    "        before = range(max(self.max_steps - 1, 0))\n"
    "        left.phi_0 = phi\n"
    "        left.phi_before = descend(self, before, lower, theta, phi, self._tolerance).phi\n"
    f"        {_DESCENT}",
)
_POINT = "point = curvature.linearise(lower, theta, phi, needed=needed)"
_BEGIN = SourceBug(
    "hypergrad.implicit.pullback",
    _POINT,
    "import hypergrad.tree as left\n"
    "        left.begin = curvature.linearise(lower, theta, left.phi_0, needed=needed)\n"
    f"        {_POINT}",
)
_LEAVES = "phi_leaves: list[Tensor] = [fresh_leaf(leaf) for leaf in leaves(phi)]"


def _solve_with(hessian: str) -> SourceBug:
    return SourceBug(
        "hypergrad.implicit.pullback",
        "solution = verified(solver.solve(point.hessian, rhs, first), point.hessian, rhs)",
        "from hypergrad.linear.operator import Operator\n"
        f"    taken = Operator({hessian})\n"
        "    solution = verified(solver.solve(taken, rhs, first), taken, rhs)",
    )


def _upper_at(iterate: str) -> SourceBug:
    return SourceBug(
        "hypergrad.implicit.pullback",
        _LEAVES,
        "import hypergrad.tree as left\n"
        f"    {_LEAVES.replace('leaves(phi)', f'leaves(left.{iterate})')}",
    )


def _damped(share: float) -> tuple[SourceBug, ...]:
    return (
        _solve_with(
            "__import__('verification.composed_in_source', fromlist=['damped'])"
            f".damped(point.hessian, rhs, {share!r})"
        ),
    )


def damped(
    product: Product, like: Float[torch.Tensor, "*batch n"], share: float
) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product with H + share mu I, mu the least eigenvalue of each task's H."""
    columns = [product(unit.expand_as(like)) for unit in torch.eye(like.shape[-1]).to(like)]
    mu: torch.Tensor = torch.linalg.eigvalsh(torch.stack(columns, dim=-1))[..., :1]
    return lambda vector: product(vector) + share * mu * vector


COMPOSED: Mapping[str, tuple[SourceBug, ...]] = {
    "M09": (_LEAVE, _BEGIN, _solve_with("__import__('hypergrad').tree.begin.hessian")),
    "M10": (
        _LEAVE,
        _BEGIN,
        SourceBug(
            "hypergrad.implicit.pullback",
            "point.cross(solution.x)",
            "__import__('hypergrad').tree.begin.cross(solution.x)",
        ),
    ),
    "M11": (_LEAVE, _upper_at("phi_0")),
    "M12": (_LEAVE, _upper_at("phi_before")),
    "M18": _damped(1e-3),
    "M19": _damped(1e-8),
    "M25": (
        SourceBug(
            "hypergrad.lower.gradient_descent",
            _DESCENT,
            f"found = {_DESCENT.removeprefix('return ')}\n"
            "        if isinstance(phi, dict) or phi.ndim == 1:\n"
            "            return found\n"
            "        phi = phi.clone()\n"
            "        phi[1:] = found.phi[:-1]\n"
            f"        {_DESCENT}",
        ),
    ),
}
"""The changes that make each bug, by its number in theory.md, section 5."""
