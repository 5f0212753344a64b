"""``python -m hypergrad check module:function``: examine a problem from the command line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypergrad.checks.check import check
from hypergrad.errors import HypergradError, InputError
from hypergrad.objective import Bilevel

_WANTED = "module:function, where function() returns (problem, theta, phi)"
_NUMBERS = (
    ("--accuracy", float, 0.01, "error of the hypergradient to live with, relative (%(default)s)"),
    ("--size-limit", int, 200, "unknowns up to which matrices are dense (%(default)s)"),
    ("--seed", int, 0, "seed of the random probes (%(default)s)"),
    ("--upper-steps", int, 8, "steps of theta on which the theorems are tried (%(default)s)"),
    ("--upper-step-size", float, None, "as you train; else theta moves by a tenth at first"),
    ("--steps", int, None, "your number of lower steps (K), to be measured"),
    ("--max-steps", int, None, "your number of adjoint steps (N), to be measured"),
    ("--step-size", float, None, "your lower step size, to be measured"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0 if nothing is wrong, 1 for findings, 2 for what can't be loaded."""
    parser = argparse.ArgumentParser(
        prog="python -m hypergrad", description="Derivatives of minimisers, with certificates."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    examine = commands.add_parser(
        "check",
        help="examine a bilevel problem, and say what to do about it",
        description="Is this hypergradient right, and do the theorems apply here?",
        epilog="exit status: 0 if nothing is wrong, 1 if something is, 2 if it can't be examined",
    )
    examine.add_argument("target", metavar="module:function", help=_WANTED)
    examine.add_argument(
        "--at-minimiser",
        action="store_true",
        help="phi is the lower level's minimiser; else it is where the lower solver starts",
    )
    for name, kind, default, words in _NUMBERS:
        examine.add_argument(name, type=kind, default=default, metavar="NUMBER", help=words)
    examine.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there, too")
    options = vars(parser.parse_args(arguments))
    target, file = options.pop("target"), options.pop("json")
    del options["command"]
    try:
        report = check(*load(target), **options)
        if file is not None:
            file.write_text(json.dumps(report.plain(), indent=2) + "\n", encoding="utf-8")
    except (HypergradError, OSError) as error:
        sys.stderr.write(f"python -m hypergrad check: {error}\n")
        return 2
    sys.stdout.write(f"{report}\n")
    return 0 if report.passed else 1


def load(target: str) -> tuple[Bilevel[Any, Any], Any, Any]:
    """The problem that ``module:function`` returns; the current folder's modules are found, too.

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
