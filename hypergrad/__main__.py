"""``python -m hypergrad check module:function``: examine a problem from the command line."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

from hypergrad.checks.check import check
from hypergrad.errors import HypergradError, InputError
from hypergrad.objective import Bilevel

_WANTED = "module:function, where function() returns (problem, theta, phi)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 if nothing is wrong, 1 for findings, 2 for what can't be loaded."""
    parser = argparse.ArgumentParser(prog="python -m hypergrad", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    examine = commands.add_parser("check", help="examine a problem, and say what to do about it")
    examine.add_argument("target", metavar="module:function", help=_WANTED)
    examine.add_argument(
        "--accuracy", type=float, default=0.01, help="error of the hypergradient to live with"
    )
    examine.add_argument(
        "--size-limit", type=int, default=200, help="unknowns up to which matrices are dense"
    )
    examine.add_argument("--seed", type=int, default=0, help="of the random probes")
    options = parser.parse_args(arguments)
    try:
        problem, theta, phi = load(options.target)
        report = check(
            problem,
            theta,
            phi,
            accuracy=options.accuracy,
            size_limit=options.size_limit,
            seed=options.seed,
        )
    except HypergradError as error:
        sys.stderr.write(f"python -m hypergrad check: {error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    return 0 if report.passed else 1


def load(target: str) -> tuple[Bilevel[Any, Any], Any, Any]:
    """What ``module:function`` returns; the current folder's modules are found, too.

    Raises:
        InputError: there is no such function, it fails, or it returns something else.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise InputError(f"got {target!r}; give {_WANTED}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"got {target!r}, which can't be loaded ({error}); give {_WANTED}, and run this in the "
            f"folder that holds the module (this is {os.getcwd()})."
        ) from error
    try:
        answer: object = function()
    except Exception as error:  # any type may come out of code that is not ours
        raise InputError(
            f"{target} raised {type(error).__name__}: {error}; it must take no arguments and "
            "return (problem, theta, phi)."
        ) from error
    if not (isinstance(answer, tuple) and len(answer) == 3 and isinstance(answer[0], Bilevel)):
        raise InputError(
            f"{target} returned {type(answer).__name__}; it must return (problem, theta, phi), "
            "problem being a hypergrad.Bilevel."
        )
    problem, theta, phi = answer
    return problem, theta, phi


if __name__ == "__main__":
    sys.exit(main())
