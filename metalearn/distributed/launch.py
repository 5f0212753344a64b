"""Joining the processes that torchrun, or a launcher like it, has started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from metalearn.distributed.world import ALONE, World
from metalearn.errors import ConfigError, LostRankError

TIMEOUT_VARIABLE: Final = "METALEARN_TIMEOUT"
"""Environment variable: seconds that a rank is waited for, by default 600.

No setting of the run: it may be another after a restart, and decides nothing that is computed.
"""

_LAUNCHED: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def launched() -> bool:
    """A launcher has started this process and may start it again."""
    return all(name in os.environ for name in _LAUNCHED)


def restarted() -> bool:
    """The launcher has started this process again after the failure of a rank."""
    return launched() and _attempt() != "0"


def _attempt() -> str:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[World, torch.device]]:
    """The ranks of this run, and this one's device; a world of one without a launcher.

    Args:
        device: cpu, or cuda, of which each rank of a node takes one.

    Raises:
        ConfigError: there are more ranks on this node than GPUs, or the timeout is no number.
        LostRankError: the others don't come.
    """
    size = int(os.environ["WORLD_SIZE"]) if launched() else 1
    if size == 1:
        yield ALONE, device
        return
    own = _own(device)
    seconds = _timeout()
    # With it a collective of NCCL that fails is an exception here instead of an abort.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    limit = timedelta(seconds=seconds)
    rank = int(os.environ["RANK"])
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=limit)))
        # torchrun keeps one store over its restarts, in which gloo would find the addresses of
        # ranks that are gone
        store = PrefixStore(f"attempt-{_attempt()}", store)
        dist.init_process_group(
            "nccl" if own.type == "cuda" else "gloo",
            store=PrefixStore("collectives", store),
            rank=rank,
            world_size=size,
            timeout=limit,
        )
    except RuntimeError as error:
        raise LostRankError(
            f"rank {rank} of {size} could not join the others within {seconds:g} s: {error}"
        ) from error
    sent = own if own.type == "cuda" else torch.device("cpu")
    world = World(rank, size, sent, seconds, PrefixStore("progress", store))
    try:
        yield world, own
        _leave_together(store, rank, size)
    except LostRankError:
        raise  # the group is broken: taking it down in order would wait for the lost rank
    except BaseException:
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _leave_together(store: Store, rank: int, size: int) -> None:
    """Close no connection that another rank may still use; rank 0, whose is the store, goes last.

    Raises:
        LostRankError: a rank does not come to the end.
    """
    everyone = range(size)
    try:
        store.set(f"done/{rank}", "")
        store.wait([f"done/{other}" for other in everyone])
        store.set(f"left/{rank}", "")
        if rank == 0:
            store.wait([f"left/{other}" for other in everyone])
    except RuntimeError as error:
        raise LostRankError(f"rank {rank} of {size} waited in vain for all to end.") from error


def _own(device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if local >= torch.cuda.device_count():
        raise ConfigError(
            f"local rank {local} has no GPU: this node has {torch.cuda.device_count()}. Start as "
            "many processes (--nproc-per-node)."
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)


def _timeout() -> float:
    given = os.environ.get(TIMEOUT_VARIABLE, "600")
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e6:
        raise ConfigError(
            f"{TIMEOUT_VARIABLE} was given as {given!r}: it is a number of seconds, 600 say."
        )
    return seconds
