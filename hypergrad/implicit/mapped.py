"""An objective mapped over one more leading dimension of tasks, as torch.func.vmap does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypergrad.equation import Saddle
from hypergrad.implicit.active import Slacks, is_non_smooth
from hypergrad.linear.operator import HessianForm
from hypergrad.objective import Objective, is_indefinite
from hypergrad.objectives.closed_form import is_closed_form
from hypergrad.tree import like


def mapped(lower: Objective[Any, Any], in_theta: Sequence[bool]) -> Objective[Any, Any]:
    """The objective of all mapped problems, with a value for each. phi is always mapped.

    Args:
        lower: objective of one problem.
        in_theta: for each leaf of theta, whether the problems have one each or share it.
    """
    own = tuple(in_theta)
    if isinstance(lower, Saddle):
        return lower.mapped(lambda function: Mapped(function, own))
    kind: type[Mapped] = Mapped
    if is_closed_form(lower):
        kind = MappedClosedForm
    elif is_non_smooth(lower):
        kind = MappedNonSmooth
    return kind(lower, own)


@dataclass(frozen=True)
class Mapped:
    """``(theta, phi) -> (mapped, *batch)``; of an equation's function, trees of such tensors."""

    lower: Any
    in_theta: tuple[bool, ...]

    @property
    def indefinite(self) -> bool:
        """See :func:`hypergrad.objective.is_indefinite`."""
        return is_indefinite(self.lower)

    def __call__(self, theta: Any, phi: Any) -> Any:
        """Each problem's values."""
        return torch.func.vmap(self.lower, in_dims=(self.dims(theta), 0))(theta, phi)

    def dims(self, theta: Any) -> Any:
        """Mapped dimensions of theta, in the form of torch.func.vmap's ``in_dims``."""
        return like(theta, (0 if own else None for own in self.in_theta))


@dataclass(frozen=True)
class MappedNonSmooth(Mapped):
    """The same of a condition with bounds or kinks; see :class:`NonSmooth`."""

    def smooth(self, theta: Any, phi: Any) -> Tensor:
        """Each problem's smooth part."""
        values: Tensor = self._each(self.lower.smooth, theta, phi)
        return values

    def prox(self, theta: Any, phi: Any, step: Tensor) -> Any:
        """Each problem's proximal map."""
        return self._each(self.lower.prox, theta, phi, step)

    def slacks(self, theta: Any, phi: Any, gradient: Any) -> Slacks:
        """Each problem's slacks."""
        found: Slacks = self._each(self.lower.slacks, theta, phi, gradient)
        return found

    def _each(self, method: Any, theta: Any, *mapped: Any) -> Any:
        dims = (self.dims(theta), *(0 for _ in mapped))
        return torch.func.vmap(method, in_dims=dims)(theta, *mapped)


@dataclass(frozen=True)
class MappedClosedForm(Mapped):
    """The same of an objective that knows its derivatives; see :class:`ClosedForm`."""

    def gradient(self, theta: Any, phi: Any) -> Any:
        """Each problem's gradient, a tree like phi."""
        return torch.func.vmap(self.lower.gradient, in_dims=(self.dims(theta), 0))(theta, phi)

    def hessian(self, theta: Any, phi: Any) -> HessianForm:
        """Each problem's Hessian."""
        return _MappedForm(self, theta, phi)


@dataclass(frozen=True, eq=False)
class _MappedForm:
    objective: MappedClosedForm
    theta: Any
    phi: Any

    def product(self, vector: Tensor) -> Tensor:
        return self._each("product", vector)

    def inverse(self, rhs: Tensor) -> Tensor:
        return self._each("inverse", rhs)

    def diagonal(self) -> Tensor:
        return self._each("diagonal")

    def _each(self, name: str, *vectors: Tensor) -> Tensor:
        def one(theta: Any, phi: Any, *vectors: Tensor) -> Tensor:
            form = self.objective.lower.hessian(theta, phi)
            answer: Tensor = getattr(form, name)(*vectors)
            return answer

        dims = (self.objective.dims(self.theta), 0, *(0 for _ in vectors))
        answer: Tensor = torch.func.vmap(one, in_dims=dims)(self.theta, self.phi, *vectors)
        return answer
