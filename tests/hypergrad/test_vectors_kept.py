"""Vectors of phi's size beside a hypergradient's graph: those that nobody reads end."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from hypergrad import CG, Certificate, LinearMap, Solution, attach
from hypergrad.implicit import linearise
from hypergrad.implicit.curvature import Hessian
from hypergrad.implicit.probe import Probing
from metalearn.memory import LiveBytes

Phi = dict[str, Tensor]
TASKS, SIZES = 2, {"a": 300, "b": 200}


@dataclass(frozen=True)
class Looked:
    """Conjugate gradients, the bytes as each product begins, and the right-hand side."""

    live: LiveBytes
    bytes: list[int] = field(default_factory=list)
    rhs: list[weakref.ref[Tensor]] = field(default_factory=list)

    def solve(self, apply: LinearMap, rhs: Tensor, start: Tensor | None = None) -> Solution:
        """See :class:`hypergrad.LinearSolver`."""

        def product(vector: Tensor) -> Tensor:
            self.bytes.append(self.live.now)
            return apply(vector)

        self.rhs.append(weakref.ref(rhs))
        return CG(max_steps=40).solve(product, rhs, start)


def lower(theta: Tensor, phi: Phi) -> Tensor:
    """One value for each task, its leaves coupled, and not at its minimum."""
    both = torch.cat(list(phi.values()), dim=-1)
    curved = (both - theta).square().sum(-1) + both.sum(-1).square() / 500
    return curved + both.sin().sum(-1) / 10


def hypergradient(
    watch: list[bool], *, probe: Probing = "never"
) -> tuple[Tensor, Certificate, Looked]:
    """A hypergradient, its certificate, and what was seen of it."""
    torch.manual_seed(0)
    theta = torch.randn(500, dtype=torch.float64, requires_grad=True)
    phi = {name: torch.randn(TASKS, size, dtype=torch.float64) for name, size in SIZES.items()}
    certificates: list[Certificate] = []
    with LiveBytes() as live:
        solver = Looked(live)

        def seen(certificate: Certificate) -> None:
            certificates.append(certificate)
            watch.append(solver.rhs[0]() is None)

        curvature = Hessian(probe=probe)
        found = attach(lower, theta, phi, solver=solver, curvature=curvature, watch=seen)
        loss = sum(leaf.square().sum() for leaf in found.values())
        assert isinstance(loss, Tensor)
        (gradient,) = torch.autograd.grad(loss, theta)
    return gradient, certificates[0], solver


def test_a_long_gradient_is_not_kept_while_the_system_is_solved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept, certificate, whole = hypergradient([], probe="always")
    monkeypatch.setattr(linearise, "LONG", 1000)
    anew, again, without = hypergradient([], probe="always")
    vector = 8 * TASKS * sum(SIZES.values())
    number = 8  # the zero in the gradient's place
    assert [more - less for more, less in zip(whole.bytes, without.bytes, strict=True)] == [
        vector - number
    ] * len(whole.bytes)
    assert torch.equal(kept, anew)
    for name in ("stationarity", "predicted_error", "newton_step", "second_derivative_error"):
        assert torch.equal(getattr(certificate, name), getattr(again, name)), name
    assert (certificate.predicted_error.abs() > 0).all()


def test_the_gradient_of_one_leaf_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearise, "LONG", 1)
    phi = torch.randn(5, dtype=torch.float64)
    at = linearise.Linearisation(lambda theta, phi: phi.exp().sum() + theta.sum(), phi, phi)
    with at.gradient_set_aside():  # memory that the graph of exp keeps, too
        assert torch.equal(at.gradient, phi.exp())
        assert torch.equal(at.product(phi), phi.exp() * phi)


def test_the_right_hand_side_ends_with_the_solve() -> None:
    ended: list[bool] = []
    hypergradient(ended)
    assert ended == [True]
