"""Do the ranks of a group hold the same? One small collective tells, on every rank alike."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from hypergrad.errors import InputError, RankError

# odd constants of SplitMix64 (Steele, Lea and Flood 2014), as signed numbers of 64 bits
_STEP = -7046029254386353131
_MIX = (-4658895280553007687, -7723592293110705685)
_AT_ONCE = 2**20  # entries: their bits take 8 bytes each, several times over


def require_group(group: dist.ProcessGroup | None) -> None:
    """Raise unless this process is a rank of the group.

    Raises:
        InputError: saying what is missing.
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise InputError(
            "the lower level is shared by ranks, and torch.distributed is not initialised; call "
            "torch.distributed.init_process_group(...) first, also where one process runs alone."
        )
    if dist.get_rank(group) < 0:
        raise InputError(
            f"rank {dist.get_rank()} is no member of the process group it was given; only its "
            "members take part in what they share."
        )


def highest(group: dist.ProcessGroup | None, values: Tensor) -> Tensor:
    """Each entry's maximum over the ranks."""
    found = values.clone()
    dist.all_reduce(found, op=dist.ReduceOp.MAX, group=group)
    return found


def any_rank(group: dist.ProcessGroup | None, flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on any rank."""
    return bool(highest(group, torch.tensor([int(flag)], device=device)))


def require_equal(
    group: dist.ProcessGroup | None, named: Mapping[str, Tensor], *, instead: str
) -> None:
    """Raise on every rank unless all ranks hold the same bits.

    Where all is well this takes one collective of two numbers, which the host waits for.

    Args:
        group: the ranks.
        named: tensors of one device, with their names.
        instead: what to do about a difference.

    Raises:
        RankError: naming the first tensor that differs.
    """
    tensors = list(named.values())
    layout = repr([(name, tuple(t.shape), t.dtype) for name, t in named.items()])
    device = tensors[0].device
    marks = torch.stack([fingerprint(tensor) for tensor in tensors])
    words = torch.tensor(digest(layout), device=device)
    if not _differing(group, (fingerprint(marks) ^ words)[None]):
        return
    if _differing(group, words[None]):
        raise RankError(
            f"the ranks do not hold tensors of the same names, shapes and dtypes: here {layout}. "
            "Every rank must make the same calls in the same order; a mean over a rank's own "
            "examples does not depend on their number."
        )
    differing = _differing(group, marks)
    raise RankError(
        f"{list(named)[differing[0]]} differs between the ranks, which must hold it alike, bit by "
        f"bit. {instead}"
    )


def _differing(group: dist.ProcessGroup | None, marks: Tensor) -> list[int]:
    """The places where the ranks' numbers differ."""
    both = highest(group, torch.cat([marks, ~marks]))
    most, least = both[: len(marks)], ~both[len(marks) :]
    found: list[int] = (most != least).nonzero()[:, 0].tolist()
    return found


def fingerprint(tensor: Tensor) -> Tensor:
    """64 bits, ``()``, that are the same for the same bits, in whatever order they are summed.

    The sum of each entry's bits and place, mixed, modulo 2^64. Two tensors that differ have the
    same one with a chance of about 2^-64.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    kinds = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = flat.view(kinds[flat.element_size()])
    found = torch.zeros((), dtype=torch.int64, device=flat.device)
    for begin in range(0, len(bits), _AT_ONCE):
        part = bits[begin : begin + _AT_ONCE].long()
        place = torch.arange(begin + 1, begin + 1 + len(part), device=flat.device)
        part = part + place * _STEP
        for shift, factor in zip((30, 27), _MIX, strict=True):
            part = (part ^ (part >> shift)) * factor
        found = found + (part ^ (part >> 31)).sum()
    return found


def digest(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
