"""The theorems' side of ``check``: estimates against exact constants; and the command."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hypergrad import Bilevel, check
from hypergrad.__main__ import main
from hypergrad.checks.advice import Choice, measure, recommend, upper_step_size
from hypergrad.checks.assumptions import grows
from hypergrad.checks.estimates import estimate
from hypergrad.checks.findings import Finding, Verdict
from hypergrad.checks.report import Report
from hypergrad.checks.theorems import Survey
from hypergrad.checks.trajectory import solve, travel
from hypergrad.errors import InputError
from tests.hypergrad import user_problems
from verification.problems import drawn as instances
from verification.subjects.planting import SourceBug, planted

UNIT = torch.finfo(torch.float64).eps
HERE = "tests.hypergrad.user_problems"


def violated(report: Report) -> list[Finding]:
    return [finding for finding in report.assumptions if finding.verdict is Verdict.FAULT]


def survey(report: Report) -> Survey:
    assert report.survey is not None
    return report.survey


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("batch", [(), (3,), (2, 2)])
def test_constants_of_a_quadratic_are_exact(seed: int, batch: tuple[int, ...]) -> None:
    found = instances.quad(seed=seed, batch=batch, p=3, q=4, condition=20.0)  # type: ignore[arg-type]
    theta, phi0, _ = found.tensors()
    exact = found.family.constants(found.theta)
    got = estimate(found.family.bilevel(), solve(found.family.bilevel(), theta, phi0))
    n = 4
    # n Lanczos steps give eigenvalues to n products' rounding: n^2 eps of the largest (Weyl). A
    # norm is the root of an eigenvalue of J'J: half of that relative error, at the largest one.
    near = 100 * n * n * UNIT
    L = float(exact.smoothness.max())
    assert abs(got.mu - exact.strong_convexity.min()) <= near * L
    assert abs(got.mu_end - exact.strong_convexity.min()) <= near * L
    for value, known in (
        (got.smoothness, exact.smoothness),
        (got.coupling, exact.L12),
        (got.upper_coupling, exact.lam12),
        (got.upper_smoothness, exact.lam22),
    ):
        assert abs(value - known.max()) <= near * known.max()
    assert got.hessian_lipschitz == 0.0
    # a difference of J's is rounding, and only divided by the way to the minimiser
    assert got.coupling_lipschitz <= 1e3 * n * UNIT * exact.L12.max() / got.distance
    # phi* and v* lose a factor of kappa (theory.md, section 6)
    kappa = float((exact.smoothness / exact.strong_convexity).max())
    assert got.adjoint_norm == pytest.approx(exact.V.max(), rel=100 * n * UNIT * kappa)
    away = np.linalg.norm(found.phi0 - found.family.minimiser(found.theta), axis=-1)
    assert got.distance == pytest.approx(away.max(), rel=100 * n * UNIT * kappa)


def test_the_distance_is_a_bound_where_the_minimiser_was_not_reached() -> None:
    found = instances.quad(seed=0, batch=(2,), p=3, q=4, condition=20.0)
    theta, phi0, _ = found.tensors()
    problem = found.family.bilevel()
    visit = solve(problem, theta, phi0)
    halfway = dataclasses.replace(visit, phi=(phi0 + visit.phi) / 2)
    true = float((phi0 - visit.phi).norm(dim=-1).max())
    # the way to phi is half of it; the gradient there over mu is at least the other half
    assert true <= estimate(problem, halfway).distance
    assert float((phi0 - halfway.phi).norm(dim=-1).max()) < 0.51 * true


@pytest.mark.parametrize("seed", range(5))
def test_constants_of_log_cosh_lie_inside_the_proven_ones(seed: int) -> None:
    found = instances.lc(seed=seed, batch=(3,), p=3, q=4, condition=20.0)
    theta, phi0, _ = found.tensors()
    exact = found.family.constants(found.theta)
    got = estimate(found.family.bilevel(), solve(found.family.bilevel(), theta, phi0))
    slack = 1 + 100 * UNIT * 16 * 20  # rounding, as above, times kappa
    assert got.mu * slack >= exact.strong_convexity.min()
    assert got.smoothness <= exact.smoothness.max() * slack
    assert got.coupling <= exact.L12.max() * slack
    assert got.upper_coupling <= exact.lam12.max() * slack
    assert got.upper_smoothness <= exact.lam22.max() * slack
    # both are positive wherever phi moves, and never above the supremum
    assert 0 < got.hessian_lipschitz <= exact.rH.max() * slack
    assert 0 < got.coupling_lipschitz <= exact.rJ.max() * slack


@pytest.mark.parametrize("accuracy", [0.1, 1e-6])
def test_the_recommendation_keeps_to_the_accuracy(accuracy: float) -> None:
    # a theorem on a quadratic, whose estimates are its constants
    for seed in range(2):
        found = instances.quad(seed=seed, batch=(2,), p=3, q=4, condition=4.0)
        theta, phi0, _ = found.tensors()
        problem = found.family.bilevel()
        path = travel(problem, theta, phi0, steps=1, step_size=None)
        advice = recommend(path, [estimate(problem, visit) for visit in path.visits], accuracy)
        plan = advice.plan
        chosen = Choice("recommended", plan.steps, plan.max_steps, plan.step_size)
        assert measure(problem, path, chosen).error <= accuracy
        # ... and no steps at all do not
        assert measure(problem, path, Choice("none", 0, 1, plan.step_size)).error > accuracy


def test_the_upper_step_is_one_over_the_smoothness_met() -> None:
    found = instances.quad(seed=1, batch=(), p=3, q=4, condition=5.0)
    theta, phi0, _ = found.tensors()
    path = travel(found.family.bilevel(), theta, phi0, steps=6, step_size=0.01)
    H, _ = found.family.normal_equations()  # type: ignore[attr-defined]
    largest = float(np.linalg.eigvalsh(H)[-1])
    # F is quadratic: quotients never exceed its largest eigenvalue, but for their rounding
    assert upper_step_size(path) >= (1 - 1e-6) / largest
    assert math.isfinite(upper_step_size(path))


def test_negative_curvature_is_seen_and_nothing_recommended() -> None:
    report = check(*user_problems.nonconvex(), upper_steps=2)
    (finding,) = violated(report)
    assert "negative curvature between phi0 and a minimiser" in finding.evidence
    first = survey(report).estimates[0]
    assert first.mu == pytest.approx(-1.0, abs=1e-12)  # at phi0 = 0
    assert first.mu_end > 0
    assert survey(report).advice is None
    assert report.right  # at the minimiser, nothing is wrong
    assert not report.passed


def test_a_singular_hessian_is_seen() -> None:
    report = check(*user_problems.singular(), upper_steps=2)
    (finding,) = violated(report)
    assert "singular Hessian at a minimiser" in finding.evidence
    assert report.advice.count("its minimiser is not unique") == 1  # both questions' remedy
    assert "l2" in report.advice
    # without an inverse there is no adjoint to be bounded, and no condition number
    (adjoint,) = (f for f in report.assumptions if "adjoint" in f.name)
    assert adjoint.verdict is Verdict.SKIPPED
    assert all(found.condition == math.inf for found in survey(report).estimates)
    assert "No K and N can be recommended" in str(report)


def test_curvature_that_fades_to_nothing_is_not_called_singular() -> None:
    """H = e^theta I, down to 1e-17: at every iterate its minimiser is unique, and kappa is 1."""

    def lower(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return (theta.exp() * phi.square() / 2 - phi).sum(-1)

    def upper(theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return 4 * theta.sum(-1) + 0 * phi.sum(-1)

    zero = torch.zeros(3, dtype=torch.float64)
    found = check(
        Bilevel(upper=upper, lower=lower), zero, zero, upper_steps=10, upper_step_size=1.0
    )
    assert survey(found).estimates[-1].mu == pytest.approx(math.exp(-40), rel=1e-9)
    assert [f.name for f in violated(found)] == ["mu bounded away from 0 (1/mu)"]
    assert survey(found).advice is None  # kappa, over the trajectory, is 1e17


def test_a_constant_without_bound_is_seen_and_one_that_has_a_bound_is_not() -> None:
    found = check(*user_problems.unbounded(), upper_steps=8, upper_step_size=1.0)
    names = [finding.name for finding in violated(found)]
    assert names == ["gradient of g Lipschitz (L)"]
    # theta goes up by 1 + (the share of phi'phi, below 1): L = cosh(8) at least
    assert survey(found).estimates[-1].smoothness >= math.cosh(8)
    still = check(*user_problems.unbounded(), upper_steps=8, upper_step_size=0.01)
    assert not violated(still)


def test_curvature_that_fades_is_seen() -> None:
    problem, theta, phi0 = user_problems.unbounded()
    # theta runs the other way: e^theta, the curvature, halves and halves again
    fading: Bilevel[Tensor, Tensor] = Bilevel(
        upper=lambda theta, phi: theta.sum(-1) + phi.square().sum(-1),
        lower=lambda theta, phi: theta.exp().sum(-1) * problem.lower(torch.zeros_like(theta), phi),
    )
    found = check(fading, theta, phi0, upper_steps=4, upper_step_size=1.0)
    names = [finding.name for finding in violated(found)]  # H v = 2 phi, so that v grows like 1/mu
    assert names == ["mu bounded away from 0 (1/mu)", "adjoint bounded (V)"]


@pytest.mark.parametrize(
    "bug",
    [
        SourceBug("hypergrad.checks.estimates", "mu=min(low for low, _", "mu=max(low for _, low"),
        SourceBug("hypergrad.checks.estimates", "turning.append(", "turning.extend([0.0]) or ("),
        SourceBug("hypergrad.checks.estimates", "largest.clamp(min=0).sqrt()", "largest"),
        SourceBug("hypergrad.checks.estimates", "share * (b - a)", "2 * share * (b - a)"),
    ],
    ids=lambda bug: bug.new,
)
def test_a_bug_in_the_estimates_is_noticed(bug: SourceBug) -> None:
    def check() -> None:
        test_constants_of_a_quadratic_are_exact(0, (3,))
        test_constants_of_log_cosh_lie_inside_the_proven_ones(0)

    check()
    with planted(bug), pytest.raises(AssertionError):
        check()


def test_an_overflow_ends_the_trajectory_and_is_told() -> None:
    found = check(*user_problems.overflowing(), upper_steps=20, upper_step_size=1.0)
    assert violated(found)[0].name == "finite values and derivatives"
    assert 1 <= len(survey(found).trajectory.visits) < 21
    assert not found.passed


def test_growth_is_told_from_levelling_off() -> None:
    assert grows([2.0**k for k in range(6)])
    assert not grows([2.0**k for k in range(4)])  # by less than ten
    assert not grows([1.0, 50.0, 90.0, 99.0, 99.9])  # levels off
    assert not grows([0.0, 1.0, 100.0])  # from nothing
    assert not grows([1.0, 100.0])  # two points show no trend
    assert not grows([1.0, 100.0, 0.0])


def test_what_cannot_be_known_is_always_said() -> None:
    report = check(*user_problems.healthy(), upper_steps=4)
    assert {finding.verdict for finding in report.assumptions} == {Verdict.OK}
    assert "no guarantee: a supremum over a region may be larger" in " ".join(str(report).split())


def test_one_curvature_everywhere_is_no_contradiction() -> None:
    """H = I, of which rounding may put the least eigenvalue above the largest."""
    report = check(*user_problems.round(), upper_steps=2)
    assert report.passed, str(report)
    constants = survey(report).advice
    assert constants is not None
    assert constants.constants["strong_convexity"] == pytest.approx(1.0)


def test_the_command_writes_what_it_prints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "check.json"
    own = ("--steps", "3", "--max-steps", "2", "--step-size", "0.1")
    options = ("--upper-steps", "2", *own, "--json", str(file))
    assert main(["check", f"{HERE}:healthy", *options]) == 0
    report = json.loads(file.read_text(encoding="utf-8"))
    assert report["passed"] is True
    assert [m["name"] for m in report["measured"]] == ["recommended", "a quarter of it", "yours"]
    assert report["measured"][0]["error"] <= report["accuracy"]
    assert len(report["trajectory"]) == len(report["estimates"]) == 3
    printed = capsys.readouterr().out
    assert f"steps={report['advice']['steps']}" in printed
    assert "Is this hypergradient right? Yes." in printed
    assert "Do the theorems apply here? Yes, as far as 3 upper iterates can show." in printed
    assert max(len(line) for line in printed.splitlines()) <= 100
    assert "Nothing to do" in printed
    assert main(["check", f"{HERE}:healthy", "--json", str(tmp_path)]) == 2  # a folder
    assert main(["check", f"{HERE}:healthy", "--at-minimiser", "--upper-steps", "0"]) == 1


def test_a_choice_that_diverges_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = check(*user_problems.healthy(), upper_steps=1, steps=5000, max_steps=2, step_size=100.0)
    assert survey(found).measured[-1].error == math.inf
    assert "diverged" in survey(found).measured[-1].note
    assert found.passed  # a bad choice of theirs is no fault of the problem
    slow = Choice("yours", 10**9, 1, 0.1)
    assert "not tried" in measure(user_problems.healthy()[0], survey(found).trajectory, slow).note


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nonconvex", "negative curvature"),
        ("singular", "singular"),
        ("captured", "add the captured tensor to theta"),
    ],
)
def test_a_fault_exits_with_1(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", f"{HERE}:{name}", "--upper-steps", "1"]) == 1
    printed = capsys.readouterr().out
    assert "FAULT" in printed
    assert message in printed


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("nowhere", "where function"),
        (":", "where function"),
        (f"{HERE}:absent", "can't be loaded"),
        ("no_such_module:f", "can't be loaded"),
        (f"{HERE}:two_things", r"returned tuple; it must return \(problem, theta, phi\)"),
        (f"{HERE}:broken", "raised KeyError"),
    ],
)
def test_what_cannot_be_examined_exits_with_2(
    target: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", target, "--upper-steps", "1"]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_the_command_finds_modules_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from tests.hypergrad.user_problems import healthy as problem\n", encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, "-m", "hypergrad", "check", "mine:problem", "--upper-steps", "0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing to do" in done.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accuracy": 0.0}, "accuracy"),
        ({"accuracy": 1.0}, "accuracy"),
        ({"upper_steps": -1}, "upper_steps >= 0"),
        ({"upper_step_size": -1.0}, "positive step sizes"),
        ({"step_size": math.nan}, "positive step sizes"),
        ({"steps": 3}, "give both"),
        ({"max_steps": 3}, "give both"),
        ({"steps": -1, "max_steps": 3}, "K >= 0"),
    ],
)
def test_nonsense_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(*user_problems.healthy(), **options)  # type: ignore[arg-type]
