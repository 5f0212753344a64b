"""Errors of this library: one base class, one class for each kind of remedy."""


class HypergradError(Exception):
    """Base class of every exception that hypergrad raises."""


class InputError(HypergradError, ValueError):
    """An argument can't be used: the message says what was given, what is expected, what to do."""


class NotFiniteError(HypergradError, ArithmeticError):
    """A NaN or an infinity appeared; the message names the quantity and the first such task."""


class TransformError(InputError):
    """A torch.func transform or batched backward can't go through here; the message says why."""


class AdjointError(HypergradError, RuntimeError):
    """A level was not solved, the lower one or the adjoint system; only ``strict`` raises it."""


class DoubleBackwardError(HypergradError, RuntimeError):
    """A second derivative was asked for where none is known: of ``Forward``, or of a curvature."""


class RankError(HypergradError, RuntimeError):
    """Ranks that share a lower level don't hold the same, or one of them could not go on."""


class AdjointWarning(UserWarning):
    """A level was not solved, the lower one or the adjoint system; ``warn`` issues it."""
