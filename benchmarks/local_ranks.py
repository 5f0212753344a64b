"""Several ranks on this machine, for what is measured between them."""

from __future__ import annotations

import multiprocessing
import os
import queue
import socket
from collections.abc import Callable
from typing import Any

import torch

from metalearn.distributed import World, joined

Target = Callable[..., Any]


def on_ranks(size: int, target: Target, *arguments: Any, timeout: float = 900.0) -> Any:
    """Run `target(world, *arguments)` on ranks of one thread each; return rank 0's answer.

    Raises:
        RuntimeError: a rank failed, or took longer than `timeout` seconds.
    """
    context = multiprocessing.get_context("spawn")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    answers = context.Queue()
    processes = [
        context.Process(target=_rank, args=(rank, size, port, answers, target, arguments))
        for rank in range(size)
    ]
    try:
        for process in processes:
            process.start()
        answer = answers.get(timeout=timeout)
        for process in processes:
            process.join(60)
        codes = [process.exitcode for process in processes]
    except queue.Empty as error:
        raise RuntimeError(f"no answer from {size} ranks within {timeout} s") from error
    finally:
        for process in processes:
            process.kill()
            process.join()
    if any(codes):
        raise RuntimeError(f"ranks ended with {codes}")
    return answer


def _rank(
    rank: int, size: int, port: int, answers: Any, target: Target, arguments: tuple[Any, ...]
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with joined(torch.device("cpu")) as (world, _):
        assert isinstance(world, World)
        answer = target(world, *arguments)
        if world.leads:
            answers.put(answer)
