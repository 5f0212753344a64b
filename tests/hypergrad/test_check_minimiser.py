"""``check`` where phi is no strict minimiser, or is only a start."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hypergrad import MINRES
from hypergrad.checks.findings import Verdict
from hypergrad.conditions import L1, Composite, Constrained, NonNegative, Root, Stationary
from hypergrad.errors import InputError
from hypergrad.objectives.quadratic import Quadratic
from tests.hypergrad.problems import P, Q
from tests.hypergrad.test_check import PHI, TOY, Function, check, last_sentence, names, toy


@pytest.mark.parametrize("size_limit", [0, 200])
@pytest.mark.parametrize(("least", "kind"), [(-0.5, "indefinite"), (0.0, "singular")])
def test_indefinite_and_singular_hessians_are_found(
    least: float, kind: str, size_limit: int
) -> None:
    spectrum = torch.tensor([least, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    turn = torch.linalg.qr(TOY.a[0]).Q  # off the axes, where a singular direction is one of phi
    matrix = (turn @ torch.diag(spectrum) @ turn.mT).expand(3, Q, Q)
    coupling = torch.ones(3, Q, P, dtype=torch.float64)
    coupling[:, 0] = 0.0
    lower = Quadratic(matrix=matrix, coupling=turn @ coupling, offset=torch.zeros_like(PHI))
    stationary = (coupling @ TOY.theta) / spectrum.clamp(min=1.0) @ turn.mT
    report = check(toy(lower), TOY.theta, stationary, size_limit=size_limit, at_minimiser=True)
    # whether CG meets the negative direction depends on the right-hand side
    assert names(report) - {"adjoint solve"} == {"curvature"}
    assert kind in str(report)
    assert "regularise the lower objective" in last_sentence(report)
    assert {"closed form", "g strongly convex (mu > 0)"} <= {
        f.name for f in [*report.findings, *report.assumptions] if f.verdict is not Verdict.SKIPPED
    }


def test_at_a_saddle_the_questions_that_remain_are_asked() -> None:
    """A stationary point of negative curvature has a derivative, which MINRES finds."""
    spectrum = torch.tensor([-0.5, 1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    lower = Quadratic(matrix=torch.diag(spectrum).expand(3, Q, Q), coupling=TOY.b, offset=0 * PHI)
    saddle = (TOY.b @ TOY.theta) / spectrum
    report = check(toy(lower), TOY.theta, saddle, solver=MINRES(), at_minimiser=True)
    assert names(report) == {"curvature"}
    asked = {f.name for f in report.findings if f.verdict is Verdict.OK}
    assert {"closed form", "converged phi", "adjoint solve", "dense oracle"} <= asked
    assert not report.applies
    moved = check(toy(lower), TOY.theta, saddle + 0.1, solver=MINRES(), at_minimiser=True)
    assert names(moved) == {"curvature", "converged phi"}


def test_phi_is_a_start_unless_it_is_said_to_be_the_minimiser() -> None:
    assert check(toy(), TOY.theta, TOY.start).passed
    assert not check(toy(), TOY.theta, TOY.start, at_minimiser=True).right


def test_a_lower_level_without_a_minimiser_is_found() -> None:
    lower: Function = lambda theta, phi: TOY.lower(theta, phi) - 9 * phi.square().sum(-1)  # noqa: E731
    report = check(toy(lower), TOY.theta, TOY.start)
    assert "converged phi" in names(report)
    assert "has a minimiser near the phi given" in last_sentence(report)
    assert report.survey is None


def test_a_smooth_bend_is_no_kink() -> None:
    """Smooth on the scale of phi's 1e-3, whose gradient turns round within it."""
    lower: Function = lambda theta, phi: (  # noqa: E731
        TOY.lower(theta, phi) + (phi.square() + 1e-6).sqrt().sum(-1)
    )
    assert check(toy(lower), TOY.theta, TOY.start).right


def test_conditions_are_refused_by_name() -> None:
    lower: Any = TOY.lower
    conditions: list[Any] = [
        Constrained(lower, NonNegative()),
        Composite(lower, L1(0.1)),
        Root(lambda theta, phi: phi - theta),
        Stationary(lower),
    ]
    for condition in conditions:
        with pytest.raises(InputError, match=f"a {type(condition).__name__}.*certificate"):
            check(toy(condition), TOY.theta, PHI)
