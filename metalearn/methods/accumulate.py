"""One upper gradient in chunks of tasks, so that memory does not grow with the tasks of a step."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import deferred
from metalearn.errors import ConfigError
from metalearn.methods.method import Method, Watch
from metalearn.methods.model import Model
from metalearn.tasks.episodes import Episodes, Undrawn


def accumulate(
    method: Method,
    model: Model,
    episodes: Episodes | Undrawn,
    *,
    watch: Watch,
    tasks_per_chunk: int | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Float[Tensor, ""]:
    """Add the gradient of the method's loss on all tasks to the parameters' `grad`.

    Each chunk runs forward and backward before the next; losses are means over tasks, so that a
    chunk of t out of T tasks counts t/T. The gradient is that of all tasks at once up to rounding
    (where the backbone drops activations, up to which ones are drawn). The host looks at no value
    before the end, where it looks once (`hypergrad.deferred`), if the method's solvers have
    no tolerance that they look for.

    Args:
        method: supplies the loss.
        model: the upper variable.
        episodes: T tasks; where they are still to be drawn, each chunk is when its turn comes.
        watch: is given one certificate for each chunk, by methods with an implicit adjoint.
        tasks_per_chunk: the most tasks at once; None: all.
        scaler: scales losses before backward (for float16); the caller unscales and steps with it.

    Returns:
        The loss, on its device.

    Raises:
        ConfigError: fewer than one task in a chunk.
        hypergrad.NotFiniteError: a lower level, or the adjoint on it, is not finite.
    """
    tasks = episodes.tasks
    size = tasks if tasks_per_chunk is None else tasks_per_chunk
    parts = []
    with deferred():
        for chunk in chunks(episodes, size):
            parts.append(_add(method, model, chunk, tasks, watch, scaler))
            del chunk  # before the next is drawn
    return torch.stack(parts).sum()


def _add(
    method: Method,
    model: Model,
    chunk: Episodes,
    tasks: int,
    watch: Watch,
    scaler: torch.amp.GradScaler | None,
) -> Tensor:
    """Add a chunk's part of the gradient; its part of the loss. Nothing else is left of it."""
    loss = method.loss(model, chunk, watch=watch) * (len(chunk.images) / tasks)
    torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
    return loss.detach()


def chunks(episodes: Episodes | Undrawn, size: int) -> Iterator[Episodes]:
    """The episodes in order, at most `size` tasks at a time.

    Raises:
        ConfigError: a size below 1.
    """
    if size < 1:
        raise ConfigError(f"tasks_per_chunk was given as {size}: it must be at least 1.")
    return (episodes.part(first, size) for first in range(0, episodes.tasks, size))
