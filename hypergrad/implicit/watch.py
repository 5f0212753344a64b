"""Receivers of certificates: a warning, an exception, or a summary of a whole run."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import TypeAlias

import jaxtyping
import torch

from hypergrad.errors import AdjointError, AdjointWarning
from hypergrad.implicit.certificate import Certificate
from hypergrad.linear.solution import Status

Watch: TypeAlias = Callable[[Certificate], None]
"""Receives the certificate when backward runs; ``certificates.append`` collects them."""

# Frames of these folders are not the user's, nor are those of code made from text ("<...>").
_NOT_THE_USERS = tuple(
    os.path.dirname(os.path.abspath(str(file))) + os.sep
    for file in (os.path.dirname(__file__), torch.__file__, jaxtyping.__file__)
)


def warn(certificate: Certificate) -> None:
    """Issue an :class:`AdjointWarning` at the user's line if a level was not solved.

    Under Python's default filters a kind of trouble is said once for a line, and again, with its
    count, at the 10th, 100th, ... time.
    """
    if bool(certificate.solved.all()):
        return
    frame = _users_frame()
    kind, message = _kind(certificate), f"the hypergradient is inexact: {certificate}"
    count = _count(frame, kind)
    if count > 1:
        message += f" ({count} times here so far.)"
    _issue(message, frame, again=count in (10**power for power in range(12)))


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
        if certificate.active is not None:
            self._counts["active set undecided"] += int((~certificate.active.decided).sum())
        wrong = int((~certificate.second_derivatives_right).sum())
        self._counts["wrong second derivatives"] += wrong
        for status in Status:
            number = int((certificate.adjoint.status == status).sum())
            self._counts[f"adjoint {status.name}"] += number
        figures = {
            "adjoint residual": certificate.adjoint.residual,
            "|d g/d phi|": certificate.stationarity,
            "Newton step / |phi|": certificate.newton_step,
            "predicted error of f": certificate.predicted_error.abs(),
        }
        if certificate.second_derivative_error is not None:
            figures["error of H v and J v"] = certificate.second_derivative_error
        if certificate.adjoint.damping is not None and bool(
            (certificate.adjoint.damping > 0).any()
        ):
            figures["damping"] = certificate.adjoint.damping
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
    """Levels that failed, and how: warnings of one kind are given once."""
    lower = "" if bool(certificate.at_minimiser.all()) else "lower level"
    held = certificate.active is not None and not bool(certificate.active.decided.all())
    statuses = certificate.adjoint.status[~certificate.adjoint.converged]
    names = sorted({Status(int(status)).name for status in statuses.reshape(-1)})
    second = "" if bool(certificate.second_derivatives_right.all()) else "second derivatives"
    return ", ".join([lower, "active set" if held else "", *names, second])


def _users_frame() -> FrameType:
    """The nearest frame outside this library and torch; else the outermost."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if name[:1] != "<" and not os.path.abspath(name).startswith(_NOT_THE_USERS):
            break
        frame = frame.f_back
    return frame


def _count(frame: FrameType, kind: str) -> int:
    """The number of times this kind came up at this line of its module, this one included."""
    counts: Counter[tuple[str, int]] = frame.f_globals.setdefault(
        "__hypergrad_warnings__", Counter()
    )
    counts[kind, frame.f_lineno] += 1
    return counts[kind, frame.f_lineno]


def _issue(text: str, frame: FrameType, *, again: bool) -> None:
    """Issue a warning at the frame, unless filters say once and it is not time to say it again.

    Python's own once-for-a-line compares texts, and figures change them.
    """
    if not again and _action(text, frame) in ("default", "module", "once"):
        return
    warnings.warn_explicit(
        text,
        AdjointWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
    )


def _action(text: str, frame: FrameType) -> str:
    """The action of the first of Python's filters that matches, as its documentation says."""
    module = str(frame.f_globals.get("__name__", ""))
    for action, message, category, where, line in warnings.filters:
        if (
            issubclass(AdjointWarning, category)
            and line in (0, frame.f_lineno)
            and (message is None or message.match(text))
            and (where is None or where.match(module))
        ):
            return action
    return "default"
