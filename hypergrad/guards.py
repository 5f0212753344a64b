"""Checks of values that wait, so that the host need not wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor


class Deferred:
    """What was to be checked and has not been looked at; see `deferred`.

    Attributes:
        open: whether the block is still to look.
    """

    def __init__(self) -> None:
        self.open = True
        self._pending: list[tuple[Tensor, Callable[[], Exception]]] = []

    def add(self, failed: Tensor, error: Callable[[], Exception]) -> None:
        """Note a check: whether it failed, a scalar, and what then to raise."""
        self._pending.append((failed, error))

    def settle(self) -> None:
        """Look once at all that was noted, and raise what should have been raised first.

        Raises:
            HypergradError: a check had failed.
        """
        pending, self._pending = self._pending, []
        for device in {failed.device for failed, _ in pending}:
            here = [(failed, error) for failed, error in pending if failed.device == device]
            if bool(torch.stack([failed for failed, _ in here]).any()):
                raise next(error for failed, error in here if bool(failed))()


_CURRENT: ContextVar[Deferred | None] = ContextVar("deferred", default=None)


@contextmanager
def deferred() -> Iterator[Deferred]:
    """Note this library's checks of values in the block, and look at all of them at its end.

    Each look at a value makes the host wait until a GPU has come so far. In the block, what is NaN
    or infinite is carried on; its end raises the first `NotFiniteError` (or changed objective) that
    there was. A block in a block leaves that to the outer one. Shapes, types and graphs are checked
    at once as ever, and solvers with a tolerance still look whether they are done.

    Raises:
        HypergradError: at the end of the block, if a check had failed.
    """
    outer = _CURRENT.get()
    if outer is not None:
        yield outer
        return
    checks = Deferred()
    try:
        with resumed(checks):
            yield checks
    except Exception:
        checks.settle()  # what had failed before may be the cause
        raise
    finally:
        checks.open = False
    checks.settle()


@contextmanager
def resumed(checks: Deferred | None) -> Iterator[None]:
    """Note checks where another thread did: backward has its own.

    After the end of that block nobody would look: checks are then those of here and now.
    """
    token = _CURRENT.set(checks if checks is not None and checks.open else _CURRENT.get())
    try:
        yield
    finally:
        _CURRENT.reset(token)


def noting() -> Deferred | None:
    """Where checks are noted now, if they are."""
    return _CURRENT.get()


def may_look(values: Tensor) -> bool:
    """Whether reading a value now is cheaper than what it can spare: on the CPU, in no block."""
    return values.device.type == "cpu" and _CURRENT.get() is None


def refuse(failed: Tensor, error: Callable[[], Exception]) -> None:
    """Raise the error if the check, a scalar, has failed; or note it."""
    checks = _CURRENT.get()
    if checks is not None:
        checks.add(failed, error)
    elif bool(failed):
        raise error()
