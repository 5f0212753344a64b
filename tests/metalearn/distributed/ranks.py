"""Real processes as the ranks of a run, on one machine and bounded in time."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.metalearn.forked import SERVER

# What makes a run small, whatever is done to it.
TINY = (
    "--checkpoint-every=2",
    "--validation-episodes=2",
    "--test-episodes=2",
    "--filters=4",
    "--tasks-per-step=2",
    "--train.way=3",
    "--test.way=3",
    "--threads=1",
    "--device=cpu",
    "--tracker=none",
)


@dataclass(frozen=True, slots=True)
class Ended:
    """How a rank ended.

    Attributes:
        code: its exit status; negative: the signal that killed it.
        said: on standard output and error.
    """

    code: int | None
    said: str


def ranks(
    size: int,
    target: Callable[..., None],
    *arguments: Any,
    folder: Path,
    until: int | None = None,
    timeout: float = 200.0,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> list[Ended]:
    """Call `target(*arguments)` on each of `size` ranks.

    Args:
        size: how many.
        target: a function of a module.
        arguments: for it.
        folder: for what the ranks say.
        until: wait for this rank only, then kill the others; None: wait for all.
        timeout: seconds after which all are killed, and the test fails.
        environment: of each rank, besides a launcher's variables.
    """
    port = _free_port()
    processes = []
    try:
        for rank in range(size):
            own = dict(environment) | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            if "METALEARN_CACHE" in os.environ:
                own["METALEARN_CACHE"] = os.environ["METALEARN_CACHE"]
            place = folder / f"rank-{rank}.log"
            process = SERVER.Process(target=_rank, args=(own, place, target, arguments))
            process.start()
            processes.append(process)
        deadline = time.monotonic() + timeout
        for rank, process in enumerate(processes):
            if until is None or rank == until:
                process.join(max(0.0, deadline - time.monotonic()))
        late = [r for r, p in enumerate(processes) if p.is_alive() and until in (None, r)]
        said = [
            path.read_text() if (path := folder / f"rank-{rank}.log").exists() else ""
            for rank in range(size)
        ]
        assert not late, f"ranks {late} did not end within {timeout} s: {said}"
        return [Ended(p.exitcode, text) for p, text in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(
    environment: dict[str, str],
    place: Path,
    target: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    import torch

    os.environ.update(environment)
    torch.set_num_threads(1)
    with place.open("w") as said:
        os.dup2(said.fileno(), sys.stdout.fileno())
        os.dup2(said.fileno(), sys.stderr.fileno())
    target(*arguments)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
