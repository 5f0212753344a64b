"""Who receives certificates: a warning, an exception, or a summary of a whole run."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

import torch

from hypergrad.errors import AdjointError, AdjointWarning
from hypergrad.implicit.certificate import Certificate
from hypergrad.linear.solution import Status

Watch: TypeAlias = Callable[[Certificate], None]
"""Receives the certificate when backward runs; ``certificates.append`` collects them."""

# Frames of these folders are not the user's.
_NOT_THE_USERS = tuple(
    os.path.dirname(os.path.abspath(str(file))) + os.sep
    for file in (os.path.dirname(__file__), torch.__file__)
)


def warn(certificate: Certificate) -> None:
    """Issue an :class:`AdjointWarning` at the user's line if a level was not solved.

    Under Python's default filters a kind of trouble is said once for a line, and again, with its
    count, at the 10th, 100th, ... time.
    """
    if bool(certificate.solved.all()):
        return
    frame = _users_frame()
    kind, told = _kind(certificate), f"the hypergradient is inexact: {certificate}"
    count = _count(frame, kind)
    if count > 1:
        told += f" ({count} times here so far.)"
    _issue(told, frame, kind, again=count in (10**power for power in range(12)))


def strict(certificate: Certificate) -> None:
    """Raise :class:`AdjointError` if a level was not solved."""
    if not bool(certificate.solved.all()):
        raise AdjointError(f"the hypergradient is inexact: {certificate}")


class Summary:
    """Collects a run's certificates in a few numbers; ``print(summary)`` shows them as a table."""

    def __init__(self) -> None:
        self.steps = 0
        self._tasks = 0
        self._counts: Counter[str] = Counter()
        self._worst: dict[str, float] = {}

    def __call__(self, certificate: Certificate) -> None:
        """Add one certificate."""
        self.steps += 1
        self._tasks += certificate.adjoint.status.numel()
        self._counts["both levels solved"] += int(certificate.solved.sum())
        self._counts["phi no minimiser"] += int((~certificate.at_minimiser).sum())
        for status in Status:
            number = int((certificate.adjoint.status == status).sum())
            self._counts[f"adjoint {status.name}"] += number
        figures = {
            "adjoint residual": certificate.adjoint.residual,
            "|d g/d phi|": certificate.stationarity,
            "Newton step / |phi|": certificate.newton_step,
            "predicted error of f": certificate.predicted_error.abs(),
        }
        for name, values in figures.items():
            if values.numel():
                self._worst[name] = max(self._worst.get(name, 0.0), float(values.max()))

    def __str__(self) -> str:
        rows = [f"{self.steps} certificates, {self._tasks} tasks"]
        rows += [
            f"  {name:<24} {number:>8} ({number / max(self._tasks, 1):.1%})"
            for name, number in self._counts.items()
            if number
        ]
        rows += [f"  worst {name:<22} {value:>10.1e}" for name, value in self._worst.items()]
        return "\n".join(rows)


def _kind(certificate: Certificate) -> str:
    """Which levels failed and how: warnings of one kind are said once."""
    lower = "" if bool(certificate.at_minimiser.all()) else "lower level"
    statuses = certificate.adjoint.status[~certificate.adjoint.converged]
    names = sorted({Status(int(status)).name for status in statuses.reshape(-1)})
    return ", ".join([lower, *names])


def _users_frame() -> FrameType:
    """The nearest frame outside this library and torch; else the outermost."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if not os.path.abspath(frame.f_code.co_filename).startswith(_NOT_THE_USERS):
            break
        frame = frame.f_back
    return frame


def _noted(frame: FrameType) -> dict[tuple[str, int], tuple[int, str]]:
    """For each kind and line of a module: how often it was met, and the last text issued."""
    noted: dict[tuple[str, int], tuple[int, str]] = frame.f_globals.setdefault(
        "__hypergrad_warnings__", {}
    )
    return noted


def _count(frame: FrameType, kind: str) -> int:
    key = kind, frame.f_lineno
    count, text = _noted(frame).get(key, (0, ""))
    _noted(frame)[key] = count + 1, text
    return count + 1


def _issue(text: str, frame: FrameType, kind: str, *, again: bool) -> None:
    """Issue a warning at the frame; the last text once more where that silences it.

    Python's once-for-a-line looks at the text, and figures change it. So where the last text of
    this kind was shown, and filters say once, it is that one that is issued, and not shown.
    """
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    key = kind, frame.f_lineno
    count, last = _noted(frame)[key]
    if not again and registry.get((last, AdjointWarning, frame.f_lineno)):
        text = last
    _noted(frame)[key] = count, text
    warnings.warn_explicit(
        text, AdjointWarning, frame.f_code.co_filename, frame.f_lineno, registry=registry
    )
