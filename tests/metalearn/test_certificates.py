"""What a training run says of its lower levels: nothing that failed goes unsaid."""

from typing import Any

import pytest
import torch

from hypergrad import CG, Certificate, Solution, Status
from hypergrad.implicit.curvature import Hessian
from metalearn.training.certificates import Certificates

TASKS = 3


def certificate(
    status: list[Status], residual: list[float], *, met: list[bool] | None = None
) -> Certificate:
    """Of one upper step."""
    ones = torch.ones(len(status))
    solution = Solution(
        x=torch.zeros(len(status), 2),
        status=torch.tensor([int(kind) for kind in status]),
        residual=torch.tensor(residual),
        curvature=ones,
        steps=torch.full((len(status),), 4),
        matvecs=5,
    )
    return Certificate(
        stationarity=1e-3 * ones,
        predicted_error=0 * ones,
        newton_step=0 * ones,
        adjoint=solution,
        cotangent_norm=ones,
        curvature=Hessian(),
        solver=CG(),
        phi=solution.x,
        lower_converged=None if met is None else torch.tensor(met),
    )


SOLVED = certificate([Status.CONVERGED] * 3, [1e-6, 3e-6, 2e-6], met=[True] * 3)
RAN_OUT = certificate([Status.OUT_OF_STEPS] * 3, [0.2, 0.4, 0.3])


def certificates(*seen: Certificate, fixed_steps: bool = False) -> Certificates:
    found = Certificates(steps=4, tasks=TASKS, fixed_steps=fixed_steps)
    for one in seen:
        found(one)
    return found


def summary(found: Certificates) -> dict[str, Any]:
    collected = found.summary()
    assert collected is not None
    return collected


def test_a_method_without_certificates_says_so() -> None:
    found = certificates()
    assert (found.summary(), found.last(5)) == (None, {})
    assert found.verdict() == "certificate: none, the method solves no adjoint system"


def test_solved_tasks_are_counted() -> None:
    found = certificates(SOLVED, SOLVED)
    assert summary(found)["adjoint_status"]["CONVERGED"] == 6
    assert summary(found)["failed"] == 0
    assert summary(found)["residual"]["training"] == pytest.approx(
        {"median": 2e-6, "worst": 3e-6}, rel=1e-6
    )
    assert found.last(1) == pytest.approx({"stationarity": 1e-3, "residual": 3e-6, "failed": 0.0})
    assert found.verdict() == (
        "certificate: all 6 tasks solved to tolerance; median relative residual 2.0e-06, "
        "worst 3.0e-06 (upper step 1, task 1)"
    )


@pytest.mark.parametrize(
    "status", [kind for kind in Status if kind is not Status.CONVERGED], ids=lambda kind: kind.name
)
def test_every_other_end_is_a_failure_with_its_remedy(status: Status) -> None:
    one = certificate([Status.CONVERGED, Status.CONVERGED, status], [1e-6, 0.9, 0.1])
    found = certificates(SOLVED, one)
    assert summary(found)["failed"] == 1
    assert found.last(1)["failed"] == pytest.approx(1 / 3)
    assert found.last(2)["failed"] == pytest.approx(1 / 6)
    said = found.verdict()
    assert "1 of 6 tasks FAILED (0 lower levels" in said
    # The worst failure, not the worst residual.
    assert f"worst failure 1.0e-01 (upper step 2, task 2): {status.name}: {status.remedy}" in said


def test_a_residual_that_is_no_number_is_the_worst() -> None:
    one = certificate([Status.NOT_FINITE, Status.OUT_OF_STEPS, Status.CONVERGED], [torch.nan, 1, 0])
    assert "worst failure nan (upper step 1, task 0): NOT_FINITE" in certificates(one).verdict()


def test_a_lower_level_above_its_tolerance_is_a_failure() -> None:
    one = certificate([Status.CONVERGED] * 3, [1e-6] * 3, met=[True, False, True])
    found = certificates(one)
    assert (summary(found)["failed"], summary(found)["lower_failed"]) == (1, 1)
    said = found.verdict()
    assert "1 of 3 tasks FAILED (1 lower levels" in said
    assert "(upper step 1, task 1): the lower level, not its adjoint: regularise more" in said


def test_running_out_of_a_fixed_number_of_steps_is_none() -> None:
    found = certificates(RAN_OUT, fixed_steps=True)
    assert summary(found)["failed"] == 0
    assert found.verdict() == (
        "certificate: all 3 tasks took the steps they were given; median relative residual "
        "3.0e-01, worst 4.0e-01 (upper step 1, task 1)"
    )
    assert summary(certificates(RAN_OUT))["failed"] == 3


def test_negative_curvature_is_a_failure_of_fixed_steps_too() -> None:
    one = certificate([Status.OUT_OF_STEPS, Status.INDEFINITE, Status.OUT_OF_STEPS], [0.1] * 3)
    assert "1 of 3 tasks FAILED" in certificates(one, fixed_steps=True).verdict()


def test_parts_of_a_step_follow_each_other() -> None:
    found = certificates()
    found(certificate([Status.CONVERGED] * 2, [1e-6, 1e-6]))
    found(certificate([Status.OUT_OF_STEPS], [0.5]))
    assert found.seen == TASKS
    assert "worst failure 5.0e-01 (upper step 1, task 2)" in found.verdict()


def test_tasks_with_a_residual_that_is_no_number_are_named() -> None:
    bad = certificate([Status.NOT_FINITE] * 3, [1e-6, torch.inf, torch.nan])
    found = certificates(SOLVED, bad, SOLVED)
    assert found.not_finite(2) == found.not_finite(10) == [4, 5]
    assert found.not_finite(1) == certificates().not_finite(1) == []
    worse = Certificates(steps=1, tasks=1, fixed_steps=False)
    worse.add(torch.tensor([[torch.nan, 0.0, 0.0, 0.0]]))
    assert worse.not_finite(1) == [0]
