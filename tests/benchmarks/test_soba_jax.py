"""SOBA's first 100 iterates are those of a program in JAX, recorded and run anew."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.peer_entries import peer
from benchmarks.soba_jax import METHOD, OUT, STEPS, iterates, iterates_of_jax
from hypergrad.stochastic import SOBA, State, decaying
from hypergrad.stochastic.soba import directions

# Entries are below 2; each of 100 steps rounds to some units in the last place (1e-16), and the
# steps contract, so that rounding adds up to less than 1e-13.
EQUAL = 1e-12


def recorded() -> Tensor:
    """The iterates of the result file."""
    found = json.loads(OUT.read_text(encoding="utf-8"))["iterates"]
    return torch.tensor(found, dtype=torch.float64)


def apart(found: Tensor) -> float:
    """The largest difference to as many recorded iterates."""
    return float((found - recorded()[: len(found)]).abs().max())


def test_the_first_iterates_are_those_recorded_of_jax() -> None:
    ours = iterates()
    assert ours.shape == (STEPS, 4 + 12 + 12)
    assert apart(ours) < EQUAL
    assert float(ours.diff(dim=0).abs().max()) > 0.1  # it moves


class AdjointLast:
    """SOBA with a slip: v moves where theta and phi have already gone."""

    def start(self, *given: Any) -> State[Tensor, Tensor]:
        return METHOD.start(*given)

    def step(self, problem: Any, state: State[Tensor, Tensor]) -> State[Tensor, Tensor]:
        new = METHOD.step(problem, state)
        late = directions(problem, replace(new, v=state.v, step=state.step))
        return replace(new, v=state.v - 0.5 * (state.step + 1) ** -0.5 * late.v)


@pytest.mark.parametrize(
    "slip",
    [
        AdjointLast(),
        SOBA(step_size=decaying(0.5), upper_step_size=decaying(0.3, 0.6)),
        SOBA(step_size=lambda step: 0.5 * (step + 2) ** -0.5, upper_step_size=decaying(0.3)),
    ],
    ids=["v after theta", "another power", "steps counted from 1"],
)
def test_a_slip_is_noticed(slip: Any) -> None:
    assert apart(iterates(slip, steps=10)) > 1e9 * EQUAL


@pytest.mark.skipif(peer("jax") is None, reason="jax, a peer that CI does not install, is absent")
def test_jax_gives_the_recorded_iterates_today() -> None:
    assert apart(iterates_of_jax(steps=10)) < EQUAL
