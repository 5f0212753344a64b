"""One upper step: the hypergradient, in chunks of tasks, and the optimiser's move.

In chunks the memory of a step does not grow with its tasks.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from hypergrad import deferred
from metalearn.errors import EpisodeError
from metalearn.methods.method import Method, Watch
from metalearn.methods.model import Model
from metalearn.tasks.episodes import Episodes


def upper_step(
    method: Method,
    model: Model,
    optimiser: torch.optim.Optimizer,
    chunks: Iterable[Episodes],
    *,
    tasks: int,
    watch: Watch,
    scaler: torch.amp.GradScaler | None = None,
) -> Float[Tensor, ""]:
    """Take one step on the method's loss; see `accumulate` for arguments and errors.

    Returns:
        The loss before the step, on its device.
    """
    optimiser.zero_grad(set_to_none=True)
    loss = accumulate(method, model, chunks, tasks=tasks, watch=watch, scaler=scaler)
    descend(optimiser, scaler)
    return loss


def descend(optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> None:
    """Move the parameters by the gradient that they hold."""
    if scaler is None:
        optimiser.step()
    else:
        scaler.step(optimiser)
        scaler.update()


def accumulate(
    method: Method,
    model: Model,
    chunks: Iterable[Episodes],
    *,
    tasks: int,
    watch: Watch,
    scaler: torch.amp.GradScaler | None = None,
) -> Float[Tensor, ""]:
    """Add the gradient of the method's loss on all tasks to the parameters' `grad`.

    Each chunk runs forward and backward before the next is asked for. Losses are means over tasks,
    so that a chunk of t out of T tasks counts t/T. The gradient is that of all tasks at once up to
    rounding, and up to the activations that a backbone draws to drop. Parameters that no loss
    reaches get a gradient of zero, frozen ones none. If the method's solvers have
    no tolerance to look for, the host reads no value before the end, where it reads once
    (`hypergrad.deferred`).

    Args:
        method: supplies the loss.
        model: the upper variable.
        chunks: the T tasks in parts.
        tasks: T.
        watch: receives one certificate for each chunk, from methods with an implicit adjoint.
        scaler: scales losses before backward (for float16); the caller unscales and steps with it.

    Returns:
        The loss, on its device.

    Raises:
        hypergrad.NotFiniteError: a lower level, or the adjoint on it, is not finite.
        EpisodeError: the chunks hold another number of tasks than `tasks`.
    """
    losses, seen = [], 0
    with deferred():
        for chunk in chunks:
            seen += chunk.tasks
            loss = method.loss(model, chunk, watch=watch) * (chunk.tasks / tasks)
            torch.autograd.backward(loss if scaler is None else scaler.scale(loss))
            losses.append(loss.detach())
            del chunk, loss  # Free them before the next chunk is drawn.
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if seen != tasks:
        raise EpisodeError(
            f"tasks was given as {tasks}, but the chunks hold {seen}: give the number of tasks "
            "that they hold together."
        )
    return torch.stack(losses).sum()
