"""Lower steps by a pure function, as those of ``torch.optim`` but with nothing hidden.

The rules here are torch's own (plain, with momentum, Adam, AdamW), written so that every setting
that is a tensor can be differentiated by :class:`Unrolled`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from numbers import Real
from typing import Any, Protocol, TypeAlias, cast, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from hypergrad.equality import by_value
from hypergrad.errors import InputError
from hypergrad.guards import may_look
from hypergrad.lower.descent import Slope, Tolerance, choose, count, descend, slope_at_half
from hypergrad.lower.minimum import Memory, Minimum
from hypergrad.objective import Objective
from hypergrad.settings import check_max_steps, check_step_size, check_tolerances
from hypergrad.tree import Phi, Theta, Tree, check_tree, leaves, like, names

Number: TypeAlias = Int[Tensor, "*batch"] | int
"""A step's number, from 1: each task's own, or one for all in a loop of one's own."""


@runtime_checkable
class Update(Protocol):
    """One step of an optimiser, as a pure function of tensors."""

    def __call__(
        self, phi: Phi, gradient: Phi, memory: Memory, step: Int[Tensor, "*batch"]
    ) -> tuple[Phi, Memory]:
        """The next phi, and what the next step must know.

        Args:
            phi: point of each task.
            gradient: d g/d phi there, a tree like phi.
            memory: memory that the last step returned, ``()`` before the first; each tensor begins
                with the tasks' dimensions.
            step: the number of the step that each task takes, from 1.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """K steps of an update: momentum, Adam, step sizes of one's own, or any function like these.

    ``Descent(update=updates.Adam(step_size=0.1), max_steps=20)`` takes the steps that
    ``TorchOptimiser`` takes with ``torch.optim.Adam``, and ``Unrolled``, ``Truncated`` and
    ``Forward`` can differentiate them. ``Unrolled`` differentiates in whatever tensor the update
    uses, too, such as its step sizes; the others refuse one that requires grad.

    Attributes:
        update: the step.
        max_steps: K; with a tolerance, at most that many.
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`; 0 for none.
        atol: absolute tolerance on it; 0 for none.
    """

    update: Update
    max_steps: int
    rtol: float = 0.0
    atol: float = 0.0

    def __post_init__(self) -> None:
        check_max_steps("Descent", self.max_steps, least=0)
        check_tolerances("Descent", self.rtol, self.atol)
        update: object = self.update  # what users give is checked, not believed
        if isinstance(update, type) or not callable(update):
            given = (
                f"the class {update.__name__}"
                if isinstance(update, type)
                else f"a {type(update).__name__}"
            )
            raise InputError(
                f"Descent got update={given}; give a function (phi, gradient, memory, step) -> "
                "(phi, memory), such as hypergrad.updates.Adam(step_size=0.1)."
            )

    @property
    def _tolerance(self) -> Tolerance:
        return Tolerance(self.rtol, self.atol)

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Take the steps, storing one iterate and the memory; then one gradient, for the evidence.

        Raises:
            InputError: the objective can't be used, or the update uses a tensor that requires grad.
            NotFiniteError: the steps diverged.
        """
        return descend(self, range(self.max_steps), lower, theta, phi, self._tolerance)

    def step(
        self,
        lower: Objective[Theta, Phi],
        theta: Theta,
        phi: Phi,
        memory: Memory = (),
        until: Int[Tensor, "*batch"] | None = None,
    ) -> tuple[Phi, Memory]:
        """One step; recorded for differentiation if theta, phi, memory or the update requires grad.

        The memory holds the update's own, then each task's goal if there is a tolerance, then the
        number of steps that each task has taken.
        """
        here = Slope.at(lower, theta, phi, measured=True)
        kept = 2 if self._tolerance else 1
        held, own = memory[:-kept], memory[-kept:]
        taken = own[-1] if own else torch.zeros_like(here.size(), dtype=torch.int64)
        at, slope = like(phi, here.points), like(phi, here.gradients)
        # the first step shows whether the update has a derivative of its own, which a caller that
        # differentiates no steps refuses
        with nullcontext() if memory else torch.enable_grad():
            answer = self.update(at, slope, held, taken + 1)
        new, next_held = self._pair(answer)
        moved = self._checked(new, phi)
        if not self._tolerance:
            return like(phi, moved), (*next_held, taken + 1)
        progress = self._tolerance.progress(
            here, own, until, lambda: slope_at_half(lower, theta, phi)
        )
        moved = choose(progress.done, here.points, moved)
        if held:
            next_held = tuple(choose(progress.done, held, next_held))
        return like(phi, moved), (*next_held, *progress.note)

    def taken(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Int[Tensor, "*batch"]:
        """Number of steps that each task takes from phi; ``()`` without a tolerance."""
        return count(self, lower, theta, phi, self._tolerance)

    def _pair(self, answer: Any) -> tuple[Any, Memory]:
        """Split what an update returned in two.

        Raises:
            InputError: the answer is no pair of a phi and a tuple of tensors.
        """
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], tuple):
            return answer
        raise InputError(
            f"{self.update} returned a {type(answer).__name__}; it must return (phi, memory), the "
            "memory being a tuple of tensors, () for none."
        )

    def _checked(self, new: Any, phi: Any) -> list[Tensor]:
        """The leaves of what the update returned.

        Raises:
            InputError: the new phi is no tree like phi.
        """
        found, wanted = leaves(new), leaves(phi)
        if names(new, "phi") != names(phi, "phi") or any(
            left.shape != right.shape for left, right in zip(found, wanted, strict=True)
        ):
            raise InputError(
                f"{self.update} returned leaves {names(new, 'phi')} of shapes "
                f"{[tuple(leaf.shape) for leaf in found]}; it must return (phi, memory) with a phi "
                f"like the one it was given, {names(phi, 'phi')} of shapes "
                f"{[tuple(leaf.shape) for leaf in wanted]}."
            )
        return found


@by_value
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scaled:
    """``phi <- phi - step_size d g/d phi``, one step size, or one for each entry.

    Attributes:
        step_size: a number, a tensor, or a tree like phi of tensors that broadcast against its
            leaves.
    """

    step_size: float | Tree

    def __post_init__(self) -> None:
        _check("Scaled", self.step_size)

    def __call__(self, phi: Phi, gradient: Phi, memory: Memory, step: Number) -> tuple[Phi, Memory]:
        """See :class:`Update`."""
        sizes = _each(self.step_size, phi)
        pairs = zip(leaves(phi), leaves(gradient), sizes, strict=True)
        return like(phi, [point - size * slope for point, slope, size in pairs]), ()


@by_value
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Momentum:
    """``m <- decay m + d g/d phi; phi <- phi - step_size m``, as ``torch.optim.SGD`` does.

    Attributes:
        step_size: see :class:`Scaled`.
        decay: a number, or a tensor without dimensions.
    """

    step_size: float | Tree
    decay: float | Tensor = 0.9

    def __post_init__(self) -> None:
        _check("Momentum", self.step_size)
        _check_decays("Momentum", decay=self.decay)

    def __call__(self, phi: Phi, gradient: Phi, memory: Memory, step: Number) -> tuple[Phi, Memory]:
        """See :class:`Update`."""
        slopes = leaves(gradient)
        if memory:
            slopes = [self.decay * old + new for old, new in zip(memory, slopes, strict=True)]
        parts = zip(leaves(phi), slopes, _each(self.step_size, phi), strict=True)
        return like(phi, [point - size * m for point, m, size in parts]), tuple(slopes)


@by_value
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Adam:
    """Adam (Kingma and Ba 2015), as ``torch.optim.Adam`` does.

    The root is taken to have the derivative zero at zero, where torch's is infinite.

    Attributes:
        step_size: see :class:`Scaled`.
        decay: decay of the mean of gradients.
        square_decay: decay of the mean of their squares.
        eps: added to the root of that mean.
    """

    step_size: float | Tree
    decay: float | Tensor = 0.9
    square_decay: float | Tensor = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check("Adam", self.step_size)
        _check_decays("Adam", decay=self.decay, square_decay=self.square_decay)

    def __call__(self, phi: Phi, gradient: Phi, memory: Memory, step: Number) -> tuple[Phi, Memory]:
        """See :class:`Update`."""
        points, slopes = leaves(phi), leaves(gradient)
        held = memory or tuple(torch.zeros_like(part) for part in (*slopes, *slopes))
        old = zip(held[: len(points)], held[len(points) :], strict=True)
        moved, first, second = list[Tensor](), list[Tensor](), list[Tensor]()
        taken = torch.as_tensor(step)
        for point, slope, size, (m, v) in zip(
            points, slopes, _each(self.step_size, phi), old, strict=True
        ):
            m = self.decay * m + (1 - self.decay) * slope
            v = self.square_decay * v + (1 - self.square_decay) * slope.square()
            number = taken.reshape(taken.shape + (1,) * (point.ndim - taken.ndim)).to(m.dtype)
            mean = m / (1 - self.decay**number)
            square = v / (1 - self.square_decay**number)
            positive = square > 0
            root = torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)
            moved.append(point - size * mean / (root + self.eps))
            first.append(m)
            second.append(v)
        return like(phi, moved), (*first, *second)


@by_value
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdamW:
    """Adam after ``phi <- (1 - step_size weight_decay) phi``, as ``torch.optim.AdamW`` does.

    The shrinking is a part of the step and of no objective (Loshchilov and Hutter 2019). So the
    steps end at no minimiser of the lower objective: differentiate them by :class:`Unrolled` or
    :class:`Truncated`, and not by :class:`Implicit`.

    Attributes:
        step_size: see :class:`Scaled`.
        weight_decay: a number, or a tensor without dimensions.
        decay: decay of the mean of gradients.
        square_decay: decay of the mean of their squares.
        eps: added to the root of that mean.
    """

    step_size: float | Tree
    weight_decay: float | Tensor = 1e-2
    decay: float | Tensor = 0.9
    square_decay: float | Tensor = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check("AdamW", self.step_size)
        _check_decays("AdamW", decay=self.decay, square_decay=self.square_decay)
        _check_decays("AdamW", weight_decay=self.weight_decay)

    def __call__(self, phi: Phi, gradient: Phi, memory: Memory, step: Number) -> tuple[Phi, Memory]:
        """See :class:`Update`."""
        sizes = _each(self.step_size, phi)
        kept = [
            point * (1 - size * self.weight_decay)
            for point, size in zip(leaves(phi), sizes, strict=True)
        ]
        adam = Adam(
            step_size=self.step_size,
            decay=self.decay,
            square_decay=self.square_decay,
            eps=self.eps,
        )
        return adam(like(phi, kept), gradient, memory, step)


def _check_decays(owner: str, **decays: float | Tensor) -> None:
    """Raise for a decay outside ``[0, 1)``, where looking at a tensor's values is cheap.

    Raises:
        InputError: naming the decay.
    """
    for name, decay in decays.items():
        if isinstance(decay, Tensor):
            outside = may_look(decay) and not bool(((decay >= 0) & (decay < 1)).all())
        else:
            outside = not 0 <= decay < 1
        if outside:
            raise InputError(f"{owner} got {name}={decay}; it must be in [0, 1).")


def _check(name: str, step_size: object) -> None:
    """Raise unless the step sizes are a positive number, or tensors with no negative entry.

    Tensors may have entries of 0, which leave an unknown where it is. Their values are looked at
    where that is cheap: not on a GPU, where the host would wait for it.

    Raises:
        InputError: naming ``step_size``.
    """
    if isinstance(step_size, Real | str | None):
        check_step_size(name, step_size, limit="or a tensor, or a tree like phi of tensors")
    else:
        check_tree(step_size, "step_size")
        for label, leaf in zip(names(step_size, "step_size"), leaves(step_size), strict=True):
            if may_look(leaf) and not bool(((leaf >= 0) & leaf.isfinite()).all()):
                worst = leaf.detach().nan_to_num(nan=-torch.inf).min()
                raise InputError(
                    f"{name} got {label} with an entry that is negative or not finite (the least "
                    f"is {float(worst):g}): a step would go uphill. Learn its logarithm, say, and "
                    "pass log_step_size.exp()."
                )


def _each(step_size: float | Tree, phi: Tree) -> Sequence[float | Tensor]:
    """The step size of each leaf of phi.

    Raises:
        InputError: a tree that is not like phi.
    """
    count = len(leaves(phi))
    if isinstance(step_size, float | int | Tensor):
        return [cast(float | Tensor, step_size)] * count
    if names(step_size, "step_size") != names(phi, "step_size"):
        raise InputError(
            f"step_size has the leaves {', '.join(names(step_size, 'step_size'))}; give one number "
            f"or tensor, or a tree like phi: {', '.join(names(phi, 'step_size'))}."
        )
    return leaves(step_size)
