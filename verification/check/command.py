"""The subcommand ``check``: from a user's function to a report and an exit status."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hypergrad import Bilevel, check
from hypergrad.__main__ import load
from hypergrad.errors import HypergradError, InputError, NotFiniteError
from verification.check.advice import choices, measure, recommend
from verification.check.estimates import Estimate, estimate
from verification.check.report import Checked
from verification.check.trajectory import travel
from verification.check.verdicts import CONVEX, Verdict, judge
from verification.report.record import write_json

EXIT_STATUS = "exit status: 0 if nothing is violated, 1 if something is, 2 if it can't be examined"


def add_parser(commands: Any) -> None:
    """Add the subcommand to ``parser.add_subparsers()``; `main` runs it."""
    parser = commands.add_parser(
        "check", help="does your problem meet the theory's conditions?", epilog=EXIT_STATUS
    )
    parser.add_argument(
        "target", metavar="module:function", help="function() returns (problem, theta, phi0)"
    )
    parser.add_argument(
        "--accuracy", type=float, default=0.01, help="wanted relative error of the hypergradient"
    )
    parser.add_argument("--upper-steps", type=int, default=8, help="length of the trajectory")
    parser.add_argument(
        "--upper-step-size", type=float, help="as you train; else theta moves by a tenth at first"
    )
    parser.add_argument("--steps", type=int, help="your K, to be measured")
    parser.add_argument("--max-steps", type=int, help="your N, to be measured")
    parser.add_argument("--step-size", type=float, help="your lower step size, to be measured")
    parser.add_argument("--seed", type=int, default=0, help="of the random probes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it there, too")


def run(arguments: Sequence[str] | None = None) -> int:
    """The subcommand alone: ``python -m verification.check module:function``."""
    parser = argparse.ArgumentParser(prog="python -m verification")
    add_parser(parser.add_subparsers(dest="command", required=True))
    given = sys.argv[1:] if arguments is None else arguments
    return main(parser.parse_args(["check", *given]))


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; returns the exit status, see `EXIT_STATUS`."""
    try:
        problem, theta, phi0 = load(options.target)
        checked = examine(
            problem,
            theta,
            phi0,
            target=options.target,
            accuracy=options.accuracy,
            upper_steps=options.upper_steps,
            upper_step_size=options.upper_step_size,
            steps=options.steps,
            max_steps=options.max_steps,
            step_size=options.step_size,
            seed=options.seed,
        )
    except HypergradError as error:
        sys.stderr.write(f"python -m verification check: {error}\n")
        return 2
    checked.tell(Console())
    if options.json is not None:
        write_json(checked.plain(), options.json)
    return 0 if checked.passed else 1


def examine(
    problem: Bilevel[Any, Any],
    theta: Any,
    phi0: Any,
    *,
    target: str = "",
    accuracy: float = 0.01,
    upper_steps: int = 8,
    upper_step_size: float | None = None,
    steps: int | None = None,
    max_steps: int | None = None,
    step_size: float | None = None,
    seed: int = 0,
) -> Checked:
    """Everything the subcommand does, as a value.

    Args:
        problem: f and g.
        theta: where the upper level begins.
        phi0: where every lower solve begins, leading dimensions = tasks.
        target: what to call it.
        accuracy: on the hypergradient, as a share of the largest one on the trajectory.
        upper_steps: length of the trajectory.
        upper_step_size: eta; None moves theta by a tenth of its size in the first step.
        steps: the user's K.
        max_steps: the user's N.
        step_size: the user's lower step size; None for the recommended one.
        seed: of the random probes.

    Raises:
        InputError: a number makes no sense, or the library can't take the problem.
    """
    if not 0 < accuracy < 1:
        raise InputError(f"got accuracy={accuracy}; give a relative error in (0, 1).")
    trajectory = travel(problem, theta, phi0, steps=upper_steps, step_size=upper_step_size)
    estimates: list[Estimate] = []
    for visit in trajectory.visits:
        try:
            estimates.append(estimate(problem, visit, seed=seed))
        except NotFiniteError:  # derivatives overflow before values do; the visits tell of it
            break
    own = None
    if trajectory.visits:
        own = check(problem, theta, trajectory.visits[0].phi, accuracy=accuracy, seed=seed)
    findings = judge(trajectory, estimates)
    convex = any(f.name == CONVEX and f.verdict is Verdict.HOLDS for f in findings)
    # where curvature varies by more than the precision from iterate to iterate, no K serves all
    usable = convex and min(e.mu for e in estimates) > max(e.rounding for e in estimates)
    advice = recommend(trajectory, estimates, accuracy) if usable else None
    tried = choices(advice, steps, max_steps, step_size)
    return Checked(
        target=target,
        accuracy=accuracy,
        own=own,
        trajectory=trajectory,
        estimates=estimates,
        findings=findings,
        advice=advice,
        measured=[measure(problem, trajectory, choice) for choice in tried],
    )
