"""Any optimiser of ``torch.optim`` as a lower solver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.guards import require_finite
from hypergrad.linear.vectors import norm
from hypergrad.lower.descent import Tolerance, gradient, slope_at_half
from hypergrad.lower.minimum import Minimum, require_fitting
from hypergrad.objective import Objective, evaluate
from hypergrad.settings import check_max_steps, check_tolerances
from hypergrad.tree import Phi, Theta, detach, leaves, like


@runtime_checkable
class Batched(Protocol):
    """A finite sum, such as :class:`stochastic.Minibatched`."""

    def turns(self, step: int, count: int) -> Iterator[Any]:
        """The objectives of the ``count`` batches of one step."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchOptimiser:
    """Lets a ``torch.optim`` optimiser minimise the sum of all tasks' objectives.

    ``TorchOptimiser(make=lambda params: torch.optim.Adam(params, lr=0.1), max_steps=100)``. A
    fresh optimiser is made for every call, so that no state hides between calls; it is given phi's
    leaves and a closure. Optimisers that work entry by entry (SGD, Adam, ...) treat each task by
    itself; one with inner products (``torch.optim.LBFGS``) mixes the tasks' step lengths, for
    which :class:`LBFGS` is the batched one.

    Of a ``stochastic.Minibatched`` lower level it may see batches: ``batches=1`` takes one at each
    step, more accumulate the gradients of so many, one after the other.

    Attributes:
        make: the optimiser of a list of leaves.
        max_steps: calls of its ``step``; with a tolerance, at most that many.
        rtol: tolerance on ``|d g/d phi|`` relative to ``|d g/d phi| + |H phi|`` at the start, see
            :class:`Tolerance`; 0 for none. Tasks move
            together: the loop ends when every task has met it.
        atol: absolute tolerance on it; 0 for none.
        batches: batches of each step; 0 for all data. With batches there is no tolerance, which
            would take a pass over all data at each step.
        key: the step of the first batches, counted as in ``Minibatched.turns``: a later call goes
            on with other batches where it is larger by ``max_steps``.
    """

    make: Callable[[list[Tensor]], torch.optim.Optimizer]
    max_steps: int
    rtol: float = 0.0
    atol: float = 0.0
    batches: int = 0
    key: int = 0

    def __post_init__(self) -> None:
        check_max_steps("TorchOptimiser", self.max_steps, least=0)
        check_tolerances("TorchOptimiser", self.rtol, self.atol)
        check_max_steps("TorchOptimiser", self.batches, least=0, name="batches")
        check_max_steps("TorchOptimiser", self.key, least=0, name="key")
        if self.batches and (self.rtol or self.atol):
            raise InputError(
                f"TorchOptimiser got batches={self.batches} with rtol={self.rtol}, "
                f"atol={self.atol}: a tolerance is on the gradient of all data, at each step; give "
                "max_steps alone."
            )

    def minimise(self, lower: Objective[Theta, Phi], theta: Theta, phi: Phi) -> Minimum[Phi]:
        """Run the optimiser from a copy of ``phi``; then one gradient more, for the evidence.

        Raises:
            InputError: the objective can't be used, or has no batches where some are asked for; or
                the optimiser was made for other tensors.
            NotFiniteError: g is NaN or infinite on the way, or its gradient at the end.
        """
        require_fitting(self, lower)
        if self.batches and not isinstance(lower, Batched):
            raise InputError(
                f"TorchOptimiser got batches={self.batches}, and the lower objective is a "
                f"{type(lower).__name__}, which has none; state it as stochastic.Minibatched, or "
                "leave batches out."
            )
        theta, tolerance = detach(theta), Tolerance(self.rtol, self.atol)
        own = [leaf.detach().clone().requires_grad_() for leaf in leaves(phi)]
        optimiser = self.make(own)
        held = {id(leaf) for group in optimiser.param_groups for leaf in group["params"]}
        if held != {id(leaf) for leaf in own}:
            raise InputError(
                f"make returned {type(optimiser).__name__} of {len(held)} tensors that are not "
                f"the {len(own)} it was given; hand on its argument, all of it."
            )

        taken = 0

        def closure() -> Tensor:
            parts: Iterator[Any] = iter([lower])
            if self.batches:
                parts = cast(Batched, lower).turns(self.key + taken, self.batches)
            value = _set_gradients(next(parts), theta, phi, own)
            for part in parts:
                value = value + _set_gradients(part, theta, phi, own, add=True)
            for leaf in own if self.batches > 1 else ():
                leaf.grad = cast(Tensor, leaf.grad) / self.batches
            return value / max(self.batches, 1)

        def half() -> Tensor:
            return slope_at_half(lower, theta, phi)

        goal: Tensor | None = None
        for _ in range(self.max_steps):
            if tolerance:
                slope = gradient(lower, theta, like(phi, own))
                goal = tolerance.goal(slope, half) if goal is None else goal
                if bool((norm(slope) <= goal).all()):
                    break
            optimiser.step(cast(Callable[[], float], closure))
            taken += 1
        found = like(phi, (leaf.detach() for leaf in own))
        slope = gradient(lower, theta, found)
        size = norm(slope)
        require_finite(size, "the gradient where the optimiser ended", per_task=True)
        goal = tolerance.goal(slope, half) if goal is None else goal
        converged = tolerance.converged(size, goal)
        return Minimum(phi=found, stationarity=size, converged=converged, steps=taken)


def _set_gradients(
    lower: Objective[Theta, Phi],
    theta: Theta,
    phi: Phi,
    own: Sequence[Tensor],
    *,
    add: bool = False,
) -> Tensor:
    """Set or add to the leaves' ``grad``; returns the objective's value."""
    with torch.enable_grad():
        loss = evaluate(lower, theta, like(phi, own)).sum()
        slopes = torch.autograd.grad(loss, own)
    for leaf, slope in zip(own, slopes, strict=True):
        leaf.grad = cast(Tensor, leaf.grad) + slope if add else slope
    return loss.detach()  # a number only where an optimiser asks: the host would wait
