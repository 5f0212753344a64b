"""The state of a single-loop method: a value that the caller owns and saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Generic

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.objective import Bilevel
from hypergrad.stochastic.directions import ONE
from hypergrad.stochastic.minibatched import sampled
from hypergrad.tree import (
    Phi,
    Theta,
    check_same_kind,
    check_tree,
    detach,
    flatten,
    leaves,
    like,
    unflatten,
)


@dataclass(frozen=True, eq=False)
class State(Generic[Theta, Phi]):
    """State of a single-loop method between two steps.

    Attributes:
        theta: upper variable.
        phi: the estimate of the lower minimiser.
        v: ``(q,)`` the estimate of the adjoint, ``H v = d f/d phi``.
        memory: further tensors that a method carries, by name.
        step: upper steps taken; the key under which batches are drawn.
    """

    theta: Theta
    phi: Phi
    v: Float[Tensor, " q"]
    memory: Mapping[str, Tensor]
    step: int

    @classmethod
    def begin(cls, theta: Theta, phi: Phi) -> State[Theta, Phi]:
        """The first state: v = 0, no memory.

        Raises:
            InputError: theta or phi can't be used.
        """
        check_tree(theta, "theta")
        check_tree(phi, "phi")
        check_same_kind(theta, phi)
        theta, phi = detach(theta), detach(phi)
        return cls(theta, phi, torch.zeros_like(flatten(leaves(phi), ONE)), {}, 0)

    @property
    def adjoint(self) -> Phi:
        """A tree like phi that holds v: a first guess for :func:`hypergradient`, as ``start``."""
        return like(self.phi, unflatten(self.v, leaves(self.phi)))

    def moved(
        self,
        *,
        theta: Tensor | float = 0.0,
        phi: Tensor | float = 0.0,
        v: Tensor | float = 0.0,
        memory: Mapping[str, Tensor] | None = None,
    ) -> State[Theta, Phi]:
        """The next state, that many steps' lengths along minus each vector."""
        return replace(
            self,
            theta=shifted(self.theta, theta),
            phi=shifted(self.phi, phi),
            v=self.v - v,
            memory=self.memory if memory is None else memory,
            step=self.step + 1,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Everything as plain contiguous tensors, for ``torch.save`` or safetensors."""
        state = {"v": self.v, "step": torch.tensor(self.step)}
        for name, tree in (("theta", self.theta), ("phi", self.phi)):
            state |= {f"{name}.{i}": leaf for i, leaf in enumerate(leaves(tree))}
        state |= {f"memory.{name}": value for name, value in self.memory.items()}
        return {
            name: value.detach().clone(memory_format=torch.contiguous_format)
            for name, value in state.items()
        }

    def restored(self, state: Mapping[str, Tensor]) -> State[Theta, Phi]:
        """The state that :meth:`state_dict` of one with the same trees has written, to the bit.

        Raises:
            InputError: the tensors are not those of such a state.
        """
        own = self.state_dict()
        fixed = {name for name in own if not name.startswith("memory.")}
        given = {name for name in state if not name.startswith("memory.")}
        wrong = [
            name
            for name in sorted(fixed | given)
            if name not in own
            or name not in state
            or own[name].shape != state[name].shape
            or own[name].dtype != state[name].dtype
        ]
        if wrong:
            raise InputError(
                f"this is no state of the same problem: {', '.join(wrong)} are missing, unknown or "
                "of another shape or dtype; give what state_dict() of a state with the same trees "
                "returned."
            )

        def tree(name: str, count: int) -> list[Tensor]:
            return [state[f"{name}.{i}"] for i in range(count)]

        prefix = "memory."
        return State(
            theta=like(self.theta, tree("theta", len(leaves(self.theta)))),
            phi=like(self.phi, tree("phi", len(leaves(self.phi)))),
            v=state["v"],
            memory={n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)},
            step=int(state["step"]),
        )


def begun(problem: Bilevel[Theta, Phi], theta: Theta, phi: Phi) -> State[Theta, Phi]:
    """The first state of a method on a problem both of whose levels have batches.

    Raises:
        InputError: a level has none, or theta or phi can't be used.
    """
    sampled(problem.upper, "upper")
    sampled(problem.lower, "lower")
    return State.begin(theta, phi)


def shifted(tree: Phi, back: Tensor | float) -> Phi:
    """The tree minus a vector; itself for a number, which is zero."""
    if not isinstance(back, Tensor):
        return tree
    own = leaves(tree)
    return like(tree, (a - b for a, b in zip(own, unflatten(back, own), strict=True)))
