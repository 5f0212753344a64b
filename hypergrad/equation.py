"""Equations ``F(theta, phi) = 0`` that define phi, and the objective whose saddle point a root is.

A root of F is the saddle point of ``L(theta, (phi, u)) = <u, F(theta, phi)>`` at ``u = 0``. There
the gradient of L in (phi, u) is ``(0, F)`` and its Hessian ``[[0, A'], [A, 0]]`` with
``A = dF/dphi``: symmetric, and so every rule that the kernel knows for an objective holds for a
root (docs/theory.md, section 11).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeAlias, TypeGuard, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Size, Tensor
from torch.utils import _pytree as pytree

from hypergrad.errors import InputError
from hypergrad.linear.vectors import norm
from hypergrad.tree import Phi, check_tree, dense, flatten, fresh_leaf, leaves, like, names

ThetaIn = TypeVar("ThetaIn", contravariant=True)

Function: TypeAlias = Callable[[Any, Any], Any]
"""``(theta, phi) -> a tree like phi``."""


@runtime_checkable
class Equation(Protocol[ThetaIn, Phi]):
    """System of as many equations as unknowns; each task has its own."""

    @property
    def tasks(self) -> int:
        """Number of leading dimensions of phi that are tasks."""
        ...

    def residual(self, theta: ThetaIn, phi: Phi) -> Phi:
        """F, a tree like phi, zero at the solution."""
        ...

    def mapped(self, over: Callable[[Function], Function]) -> Equation[Any, Any]:
        """The equation of one more leading dimension of tasks; ``over`` maps a function so."""
        ...


def is_equation(lower: object) -> TypeGuard[Equation[Any, Any]]:
    """True if a condition is an Equation; quicker than ``isinstance`` of a protocol."""
    return hasattr(lower, "residual") and hasattr(lower, "tasks") and hasattr(lower, "mapped")


@runtime_checkable
class FixedPointEquation(Equation[ThetaIn, Phi], Protocol[ThetaIn, Phi]):
    """An equation ``phi = T(theta, phi)``."""

    def image(self, theta: ThetaIn, phi: Phi) -> Phi:
        """T, a tree like phi."""
        ...


@dataclass(frozen=True, eq=False)
class Pair(Generic[Phi]):
    """A phi and the multiplier u of its equation, zero."""

    phi: Phi
    multiplier: Phi


_PHI: Any = ""  # so that the names of phi's leaves stay as they are
_OTHER: Any = " (its multiplier)"
pytree.register_pytree_node(
    Pair,
    lambda pair: ([pair.phi, pair.multiplier], None),
    lambda parts, _: Pair(*parts),
    flatten_with_keys_fn=lambda pair: ([(_PHI, pair.phi), (_OTHER, pair.multiplier)], None),
)


@dataclass(frozen=True)
class Saddle:
    """The objective ``(theta, (phi, u)) -> <u, F(theta, phi)>`` of each task, ``(*batch,)``."""

    equation: Equation[Any, Any]

    def __call__(self, theta: Any, pair: Pair[Any]) -> Tensor:
        """The values, zero at a pair; what matters is their derivatives.

        Raises:
            InputError: F is no tree like phi.
        """
        tasks = self.equation.tasks
        for label, leaf in zip(names(pair.phi, "phi"), leaves(pair.phi), strict=True):
            if leaf.ndim < tasks:
                raise InputError(
                    f"{label} has shape {tuple(leaf.shape)}, but {type(self.equation).__name__} "
                    f"was given tasks={tasks}: phi must begin with so many dimensions of tasks."
                )
        found = self.equation.residual(theta, pair.phi)
        parts = aligned(found, pair.phi, type(self.equation).__name__)
        pairs = zip(leaves(pair.multiplier), parts, strict=True)
        each = [
            (u * part).flatten(start_dim=tasks).sum(-1) if part.ndim > tasks else u * part
            for u, part in pairs
        ]
        return functools.reduce(torch.add, each)

    def mapped(self, over: Callable[[Function], Function]) -> Saddle:
        """The objective of one more leading dimension of tasks."""
        return Saddle(self.equation.mapped(over))


@dataclass(frozen=True)
class Gradient:
    """The equation ``d L/d phi = 0`` of an objective."""

    objective: Callable[[Any, Any], Tensor]
    tasks: int

    def residual(self, theta: Any, phi: Any) -> Any:
        """``d L/d phi``, with its graph where grad is enabled."""
        record = torch.is_grad_enabled()
        points = [
            leaf if record and leaf.requires_grad else fresh_leaf(leaf) for leaf in leaves(phi)
        ]
        with torch.enable_grad():
            total = self.objective(theta, like(phi, points)).sum()
            parts = torch.autograd.grad(total, points, create_graph=record, materialize_grads=True)
        return like(phi, dense(parts))

    def mapped(self, over: Callable[[Function], Function]) -> Gradient:
        """See :class:`Equation`."""
        return Gradient(over(self.objective), self.tasks + 1)


def aligned(found: Any, phi: Any, kind: str) -> list[Tensor]:
    """The leaves of a tree like phi in the order of phi's own; a dict's order does not matter.

    Args:
        found: value that a function of (theta, phi) returned.
        phi: tree that the value must be like.
        kind: whose function it is, for the message.

    Raises:
        InputError: a leaf is missing, or of another shape.
    """
    labels, own = names(phi, "phi"), leaves(phi)
    given = dict(zip(names(found, "phi"), leaves(found), strict=True))
    shapes = {label: getattr(part, "shape", type(part)) for label, part in given.items()}
    wanted = {label: leaf.shape for label, leaf in zip(labels, own, strict=True)}
    if shapes != wanted:
        raise InputError(
            f"the function of {kind} returned {_listed(shapes)}; it must return tensors like phi, "
            f"{_listed(wanted)}: one equation for each unknown. (An objective is given itself, "
            f"without {kind}.)"
        )
    for label, part in given.items():
        if not part.is_floating_point():
            raise InputError(
                f"the function of {kind} returned {label} of {part.dtype}; it must return "
                "floating-point tensors, or nothing has a derivative."
            )
    return [given[label] for label in labels]


def called(lower: object, role: str = "lower") -> str:
    """Name of an objective in messages, or of the equation's function in its place."""
    if isinstance(lower, Saddle):
        return f"the function of {type(lower.equation).__name__}"
    block = getattr(lower, "block_name", None)  # of a finite sum
    return f"the {role} objective" if block is None else f"{block} of the {role} objective"


def no_objective(kind: str) -> InputError:
    """The refusal of an equation where values of an objective are asked for."""
    return InputError(
        f"{kind} states an equation and has no values to minimise, which this function needs; "
        "attach, argmin, hypergradient and pullback take it."
    )


def _listed(shapes: dict[str, Any]) -> str:
    each = (
        f"{label}: {tuple(shape) if isinstance(shape, Size) else shape.__name__}"
        for label, shape in shapes.items()
    )
    return ", ".join(each) or "nothing"


def stated(lower: Any, phi: Any, name: str = "phi") -> tuple[Any, Any]:
    """The objective and its variable: the saddle and a pair for an equation, else unchanged."""
    if not is_equation(lower):
        return lower, phi
    check_tree(phi, name)
    return Saddle(lower), paired(phi)


def paired(phi: Phi) -> Pair[Phi]:
    """A pair of phi and a multiplier of zero."""
    return Pair(phi, like(phi, (torch.zeros_like(leaf).detach() for leaf in leaves(phi))))


def as_adjoint(start: Phi) -> Pair[Phi]:
    """A guess of v, which takes the multiplier's place in the solution of the adjoint system."""
    return Pair(like(start, (torch.zeros_like(leaf) for leaf in leaves(start))), start)


def unpaired(tree: Any) -> Any:
    """The phi of a pair; any other tree as it is."""
    return tree.phi if isinstance(tree, Pair) else tree


def size_of(lower: Any, values: Tensor, phi: Any) -> Float[Tensor, "*batch"]:
    """Evidence of what an objective is at a point: its values, and ``|F|`` of a saddle's equation.

    Args:
        lower: the objective.
        values: ``(*batch,)`` with their graph.
        phi: leaves of that graph.
    """
    if not isinstance(lower, Saddle):
        return values.detach()
    parts = torch.autograd.grad(values, leaves(phi.multiplier), torch.ones_like(values))
    return norm(flatten(parts, values.shape))
