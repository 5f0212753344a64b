"""Checks that the ranks of a group hold the same: one small message, one verdict for all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache

import torch
import torch.distributed as dist
from torch import Tensor

from hypergrad.errors import InputError, RankError

_AT_ONCE = 2**18  # words, so that intermediate results stay in a cache
_ODD = -7046029254386353131  # between parts
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


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
    """True if the flag is set on any rank."""
    return bool(highest(group, torch.tensor([int(flag)], device=device)))


def require_equal(
    group: dist.ProcessGroup | None, named: Mapping[str, Tensor], *, instead: str
) -> None:
    """Raise on every rank unless all ranks hold the same bits.

    Where all is well this takes one collective of two numbers, which the host waits for.

    Args:
        group: the ranks.
        named: tensors of one device, with their names.
        instead: the remedy for a difference.

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

    Words of 64 bits are folded and multiplied by odd random weights, and their products summed
    modulo 2^64. The fold brings a word's high bits down to bit 31 at most: an odd weight times a
    difference in bit 63 alone would be 2^63 whatever the weight, and that of two sign flips 0. So
    two tensors that differ have the same fingerprint with a chance of at most 2^-31.
    """
    flat = tensor.detach().contiguous().reshape(-1)
    each = 8 // flat.element_size()
    if flat.storage_offset() % each:  # words begin at their own length
        flat = flat.clone()
    whole = len(flat) // each * each
    small = _INTEGERS[flat.element_size()]
    parts = [flat[:whole].view(torch.int64), flat[whole:].view(small).long()]
    found = torch.zeros((), dtype=torch.int64, device=flat.device)
    weights = _weights(flat.device)
    for words in (words for part in parts for words in part.split(_AT_ONCE)):
        mixed = words >> 32
        mixed &= 2**32 - 1  # not the sign, which the shift repeats
        mixed ^= words
        mixed *= weights[: len(words)]
        found = found * _ODD + mixed.sum()
    return found


@lru_cache(maxsize=8)
def _weights(device: torch.device) -> Tensor:
    """Odd numbers, the same in every process; not to be written into."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(-(2**63), 2**63 - 1, (_AT_ONCE,), generator=generator, device="cpu")
    return (drawn | 1).to(device)


def digest(text: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
