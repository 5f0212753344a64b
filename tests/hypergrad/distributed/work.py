"""What the two ranks of the tests do: all cases in one pair of processes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from hypergrad.errors import AdjointWarning, HypergradError
from tests.hypergrad.distributed import cases, faults, wrapped

Case = Callable[[cases.Here], dict[str, Tensor]]


def work(folder: Path) -> None:
    """Run every case; write down what each found, or the error it ended in."""
    warnings.simplefilter("error", AdjointWarning)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    found: dict[str, dict[str, Tensor] | str] = {}
    every: tuple[Case, ...] = (*cases.CASES, *wrapped.CASES, *faults.CASES)
    for case in every:
        try:
            found[case.__name__] = case(cases.Here(rank))
        except HypergradError as error:
            found[case.__name__] = f"{type(error).__name__}: {error}"
        torch.save(found, folder / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
