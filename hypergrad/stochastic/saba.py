"""SABA: SOBA with the variance of its directions reduced by a memory of each block's last part."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hypergrad.errors import InputError
from hypergrad.objective import Bilevel
from hypergrad.stochastic.directions import Directions, checked, lower_parts, slopes
from hypergrad.stochastic.minibatched import sampled
from hypergrad.stochastic.schedules import Schedule, at, check_schedule
from hypergrad.stochastic.state import State, begun
from hypergrad.tree import Phi, Theta

PARTS = ("slope", "product", "cross", "upper_theta", "upper_phi")


@dataclass(frozen=True, slots=True, kw_only=True)
class SABA:
    """Stochastic average bilevel algorithm (Dagreou et al. 2022, Section 3.2; SAGA at heart).

    Remembers, for every block of either level, its last part of each direction, and uses
    ``new - remembered + mean of all remembered``, which is unbiased and whose variance vanishes
    at a solution: constant step sizes converge. The memory holds ``(2q + p)`` numbers for each
    block of the lower level and ``p + q`` for each of the upper; :meth:`start` fills it by one pass
    over the data.

    Attributes:
        step_size: step size of phi and v.
        upper_step_size: step size of theta.
    """

    step_size: Schedule
    upper_step_size: Schedule

    def __post_init__(self) -> None:
        check_schedule("SABA", self.step_size)
        check_schedule("SABA", self.upper_step_size)

    def start(self, problem: Bilevel[Theta, Phi], theta: Theta, phi: Phi) -> State[Theta, Phi]:
        """The first state: v = 0, and each block's parts there."""
        upper, lower = sampled(problem.upper, "upper"), sampled(problem.lower, "lower")
        state = begun(problem, theta, phi)
        rows: dict[str, list[Tensor]] = {name: [] for name in PARTS}
        for index in range(lower.blocks):
            parts = lower_parts(lower.block(index), state.theta, state.phi, state.v)
            for name in PARTS[:3]:
                rows[name].append(getattr(parts, name))
        for index in range(upper.blocks):
            pair = slopes(upper.block(index), state.theta, state.phi, "upper")
            for name, part in zip(PARTS[3:], pair, strict=True):
                rows[name].append(part)
        memory = {name: torch.stack(found) for name, found in rows.items()}
        return State(state.theta, state.phi, state.v, memory, 0)

    def step(self, problem: Bilevel[Theta, Phi], state: State[Theta, Phi]) -> State[Theta, Phi]:
        """The state after one batch of each level.

        Raises:
            InputError: an objective is not :class:`Minibatched`, or can't be used; or the state is
                another method's, or of other blocks.
            NotFiniteError: a direction is NaN or infinite.
        """
        whole = sampled(problem.upper, "upper"), sampled(problem.lower, "lower")
        _require_same_memory(state, upper=whole[0].blocks, lower=whole[1].blocks)
        upper, lower = (each.batch(state.step) for each in whole)
        parts = lower_parts(lower, state.theta, state.phi, state.v)
        pair = slopes(upper, state.theta, state.phi, "upper")
        new = dict(zip(PARTS, (parts.slope, parts.product, parts.cross, *pair), strict=True))
        memory, reduced = dict(state.memory), {}
        for name in PARTS:
            rows, row = memory[name], (lower if name in PARTS[:3] else upper).index
            reduced[name] = new[name] - rows[row] + rows.mean(dim=0)
            memory[name] = rows.index_copy(
                0, torch.tensor([row], device=rows.device), new[name][None]
            )
        found = checked(
            Directions(
                theta=reduced["upper_theta"] - reduced["cross"],
                phi=reduced["slope"],
                v=reduced["product"] - reduced["upper_phi"],
            )
        )
        size, upper_size = at(self.step_size, state.step), at(self.upper_step_size, state.step)
        return state.moved(
            theta=upper_size * found.theta, phi=size * found.phi, v=size * found.v, memory=memory
        )


def _require_same_memory(state: State[Theta, Phi], *, upper: int, lower: int) -> None:
    """Raise unless the memory has a row for each block."""
    wanted = {name: lower if name in PARTS[:3] else upper for name in PARTS}
    found = {name: len(rows) for name, rows in state.memory.items()}
    if found != wanted:
        raise InputError(
            f"SABA got a state whose memory has the rows {found}, and needs {wanted}, one for each "
            "block; begin with SABA.start of this very problem."
        )
