"""Failures of an upper step, explained: which episodes are not finite, what saves memory.

Nothing of this runs, and the host reads no value, before a step has failed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import hypergrad.errors
from metalearn.config.train import TrainConfig
from metalearn.errors import MemoryExhaustedError, MetalearnError, NotFiniteError
from metalearn.methods import Method, Model
from metalearn.tasks.episodes import Sampler
from metalearn.training.step import accumulate


@contextmanager
def episodes_named(
    method: Method,
    model: Model,
    sampler: Sampler,
    episodes: range,
    *,
    scaler: torch.amp.GradScaler | None,
) -> Iterator[None]:
    """Name the episodes that are not finite by themselves when the block raises that some are not.

    Args:
        method: the upper step's.
        model: the step's; unchanged, and so is torch's generator.
        sampler: draws the training episodes.
        episodes: indices of the episodes that the block takes together.
        scaler: the step's, which handles infinite hypergradients.

    Raises:
        NotFiniteError: in place of metalearn's and hypergrad's errors of that name.
    """
    try:
        yield
    except (NotFiniteError, hypergrad.errors.NotFiniteError) as error:
        said = _said(method, model, sampler, episodes, scaler)
        raise NotFiniteError(f"{error} {said}") from error


def _said(
    method: Method,
    model: Model,
    sampler: Sampler,
    episodes: range,
    scaler: torch.amp.GradScaler | None,
) -> str:
    span = f"training episodes {episodes.start} to {episodes.stop - 1}"
    if not all(bool(weight.isfinite().all()) for weight in model.parameters()):
        return f"The weights are no longer finite, so that none of {span} is to blame alone."
    try:
        found = _alone(method, model, sampler, episodes, scaler)
    except Exception as other:  # which must not hide what came first
        return f"One by one, {span} ended in {type(other).__name__}: {other}"
    if not found:
        return f"One by one, with the weights as they are, {span} are finite."
    each = ", ".join(f"{index} ({what})" for index, what in found.items())
    return f"One by one, with the weights as they are, these of {span} are not finite: {each}."


def _alone(
    method: Method,
    model: Model,
    sampler: Sampler,
    episodes: range,
    scaler: torch.amp.GradScaler | None,
) -> dict[int, str]:
    """The part that is not finite, for each such episode, taken one by one."""
    model, scaler = copy.deepcopy(model), copy.deepcopy(scaler)
    device = sampler.pool.device
    found = {}
    # what is dropped is drawn: the state that is kept of the failure must not have moved
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for index in episodes:
            model.zero_grad(set_to_none=True)
            batch = sampler.sample(index, 1)
            try:
                loss = accumulate(
                    method, model, [batch], tasks=1, watch=lambda _: None, scaler=scaler
                )
            except hypergrad.errors.NotFiniteError:
                found[index] = "the lower level or its adjoint"
                continue
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            if not bool(loss.isfinite()):
                found[index] = "loss"
            elif scaler is None and not all(bool(part.isfinite().all()) for part in gradients):
                found[index] = "hypergradient"
    return found


@contextmanager
def memory_named(step: int, config: TrainConfig) -> Iterator[None]:
    """Turn out-of-memory errors of torch and Python into one that says what to do.

    Raises:
        MemoryExhaustedError: naming the step and the settings that take less.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MetalearnError) or not _of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"upper step {step} ran out of memory ({str(error).splitlines()[0]}): start more "
            "ranks and continue from the last checkpoint, or begin a new run with fewer "
            f"--tasks-per-chunk (now {config.memory.tasks_per_chunk or 'all'}), --streamed or "
            "--recompute."
        ) from error


def _of_memory(error: Exception) -> bool:
    kinds = (MemoryError, torch.OutOfMemoryError)
    # the CPU's allocator has no class of its own
    return isinstance(error, kinds) or "can't allocate memory" in str(error)
