"""Checks of values, which may wait so that the host need not wait for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor

from hypergrad.errors import InputError, NotFiniteError
from hypergrad.transforms import innermost


class Deferred:
    """Checks that wait to be looked at; see `deferred`.

    Attributes:
        open: true until the block reads its checks.
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
    at once as ever, and solvers with a tolerance still look whether they are done. A certificate's
    ``newton_step`` is then the bound that takes no product: whether another is needed is a look.

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
    """Current collection of checks that wait; None outside `deferred`."""
    return _CURRENT.get()


def may_look(values: Tensor) -> bool:
    """True if reading a value is cheap: on the CPU, outside `deferred` and transforms."""
    return values.is_cpu and _CURRENT.get() is None and innermost() is None


def refuse(failed: Tensor, error: Callable[[], Exception]) -> None:
    """Raise the error if the check, a scalar, has failed; or note it."""
    checks = _CURRENT.get()
    if checks is not None:
        checks.add(failed, error)
    elif failed:
        raise error()


def refuse_other_values(
    now: Tensor,
    then: Tensor,
    terms: Callable[[], Tensor] | None = None,
    *,
    what: str = "the lower objective",
) -> None:
    """Refuse an objective whose values at the same point have changed between two evaluations.

    Equal up to the order of sums: the square root of the precision is far more than that, and far
    less than what dropout does. Values that are small because their terms cancel are compared in
    units of these ``terms``, which are asked for where the values differ at all.

    Raises:
        InputError: with both values of the first task that changed.
    """
    if terms is not None and may_look(now) and torch.equal(now, then):
        return
    scale = torch.maximum(now.abs(), then.abs())
    scale = scale if terms is None else scale + terms()
    bound = torch.finfo(now.dtype).eps ** 0.5 * scale
    changed = (now - then).abs() > bound

    def error() -> InputError:
        index = _index(changed) if changed.ndim else ()
        return InputError(
            f"{what} was {float(then[index]):.6g} when phi was attached and "
            f"{float(now[index]):.6g} at the same point in backward. If it draws random numbers "
            "(dropout?), fix them outside of it or call eval(); if something that it captures was "
            "changed meanwhile (a buffer, a loop variable), pass that as a copy."
        )

    refuse(changed.any(), error)


def refuse_not_finite(
    tensor: Tensor, what: str, *, per_task: bool, norms: Tensor | None = None
) -> None:
    """Raise if a value is NaN or infinite, naming the first task; under `deferred`, at its end.

    Args:
        tensor: shape ``(*batch,)`` if ``per_task``, else ``(*batch, n)``.
        what: the quantity, for the message.
        per_task: true if each entry is a task's only value.
        norms: ``(*batch,)`` the tasks' norms, where they are known: looked at first.

    Raises:
        NotFiniteError: with the task's index.
    """
    # one look if all is well: no sum or norm is finite that has NaN or infinity in it
    seen = tensor if norms is None else norms
    if may_look(tensor) and math.isfinite((seen.sum() if seen.ndim else seen).item()):
        return
    refuse_where(~(tensor.isfinite() if per_task else tensor.isfinite().all(dim=-1)), what)


def refuse_where(bad: Tensor, what: str) -> None:
    """Raise for the tasks marked in ``bad``, ``(*batch,)``; under `deferred`, at its end."""
    # no function defined here: the type checker of tests would wrap one at each call
    refuse(bad.any() if bad.ndim else bad, partial(_not_finite, bad, what))


def _not_finite(bad: Tensor, what: str) -> NotFiniteError:
    where = "" if bad.ndim == 0 else f" of task {_index(bad)}"
    more = f" ({int(bad.sum())} of {bad.numel()} tasks)" if bad.ndim else ""
    # a value and a derivative have their own usual causes
    usual = (
        "and for logits masked by -inf, whose cross entropy with label smoothing is infinite "
        "though its gradient is finite (use a large negative number, or mask after the softmax)"
        if what.endswith("objective")
        else "and for a root or a norm at zero, which has no second derivative even if it is "
        "squared again (write x.square().sum() for x.norm()**2)"
    )
    return NotFiniteError(
        f"{what}{where} is not finite{more}. Look for an overflow, a log or a division of "
        "zero; for a lower solver that diverged (its step size must stay below 2/L); "
        f"{usual}."
    )


def _index(mask: Tensor) -> int | tuple[int, ...]:
    first = [int(i) for i in mask.nonzero()[0]]
    return first[0] if len(first) == 1 else tuple(first)
