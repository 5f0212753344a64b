"""One process among those of a run: which part of the work is its own, and what all agree on.

Without torchrun there is one rank, whose methods do nothing and cost nothing. A collective is a sum
(`total`): where every entry is filled by one rank and 0 on the others, a sum gathers exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Final

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed import Store  # type: ignore[attr-defined]

from metalearn.errors import LostRankError, RankError

_MESSAGE: Final = 2048  # bytes of a text that one rank tells the others
_AT: Final = "at"
_CPU: Final = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class World:
    """The ranks of a run, seen from one of them.

    Attributes:
        rank: this process's number, from 0.
        size: number of ranks.
        device: holds what is sent, a GPU for NCCL, the CPU for gloo.
        timeout: seconds that a rank is waited for.
        store: store in which each rank notes its progress, so that one that stays away can be
            named.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU
    timeout: float = 0.0
    store: Store | None = None
    _turns: Iterator[int] = field(default_factory=lambda: count(1), repr=False, compare=False)

    @property
    def leads(self) -> bool:
        """This rank is the one that writes files and messages."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This rank's part of `count` tasks in order; parts differ by at most one task."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def total(self, values: Shaped[Tensor, "*any"], what: str) -> Shaped[Tensor, "*any"]:
        """The sum over the ranks, the same bits on all of them.

        Args:
            values: tensors of one shape and dtype on all ranks; may be overwritten.
            what: name of the values, for the message if a rank stays away.

        Raises:
            LostRankError: a rank hangs or is gone; it is named.
        """
        if self.size == 1:
            return values
        sent = values.to(self.device)
        self._note(what)
        try:
            dist.all_reduce(sent)
            if sent.is_cuda:
                torch.cuda.current_stream(sent.device).synchronize()
        except RuntimeError as error:
            raise LostRankError(self._missing(what, error)) from error
        return sent.to(values.device)

    def most(self, value: int, what: str) -> int:
        """The largest of the ranks' values, each at least 0.

        Raises:
            LostRankError: see `total`.
        """
        return max(self._each(float(value), what))

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Raise on all ranks, after the block, what one of them raises in it.

        The block must not hold a collective: a rank that left it would not come to that.

        Raises:
            RankError: on all ranks if the block raised on some; the first of them is named.
            LostRankError: see `total`.
        """
        if self.size == 1:
            yield
            return
        problem: Exception | None = None
        try:
            yield
        except Exception as error:  # whatever it is: the other ranks must not wait for this one
            problem = error
        failed = self._each(0 if problem is None else 1, what)
        self.raise_if_failed(failed, problem, what)

    def raise_if_failed(self, failed: list[int], problem: Exception | None, what: str) -> None:
        """Raise the failure of the first rank with a 1, on all ranks.

        Raises:
            RankError: there is one.
        """
        if not any(failed):
            return
        first = failed.index(1)
        said = "" if problem is None else f"{type(problem).__name__}: {problem}"
        said = self.text_of(said, first, what)
        ranks = [rank for rank, bad in enumerate(failed) if bad]
        raise RankError(
            f"rank {first} of {self.size} failed at {what}: {said}"
            + (f" (so did ranks {ranks[1:]})" if len(ranks) > 1 else "")
        ) from problem

    def same(self, digest: bytes, what: str) -> None:
        """Raise if the ranks' digests differ.

        Args:
            digest: 32 bytes that should be the same everywhere.
            what: name of what they stand for.

        Raises:
            RankError: the digests differ; the ranks that differ from rank 0 are named.
        """
        if self.size == 1:
            return
        table = torch.zeros(self.size, len(digest), dtype=torch.uint8)
        table[self.rank] = torch.tensor(list(digest), dtype=torch.uint8)
        table = self.total(table, what)
        others = (table != table[0]).any(1).nonzero().flatten().tolist()
        if others:
            raise RankError(
                f"ranks {others} of {self.size} have another {what} than rank 0: start all of them "
                "with the same command, code and data, on sound hardware."
            )

    def text_of(self, text: str, source: int, what: str) -> str:
        """The text of rank `source`, on all ranks (its first 2,048 bytes).

        Raises:
            LostRankError: see `total`.
        """
        if self.size == 1:
            return text
        sent = torch.zeros(_MESSAGE, dtype=torch.uint8)
        if self.rank == source:
            content = text.encode()[:_MESSAGE]
            sent[: len(content)] = torch.tensor(list(content), dtype=torch.uint8)
        return bytes(self.total(sent, what).tolist()).rstrip(b"\0").decode(errors="ignore")

    def _each(self, value: float, what: str) -> list[int]:
        values = torch.zeros(self.size, dtype=torch.float64)
        values[self.rank] = value
        return [int(found) for found in self.total(values, what).tolist()]

    def _note(self, what: str) -> None:
        """Say in the store that this rank has come to one collective more, and to which."""
        assert self.store is not None
        self.store.set(f"{_AT}/{self.rank}", f"{next(self._turns)} {what}")

    def _seen(self, rank: int) -> tuple[int, str]:
        """Number of collectives that a rank has reached, and the last of them."""
        assert self.store is not None
        if not self.store.check([f"{_AT}/{rank}"]):
            return 0, "the start"
        turn, what = self.store.get(f"{_AT}/{rank}").decode().split(" ", 1)
        return int(turn), what

    def _missing(self, what: str, error: RuntimeError) -> str:
        cause = str(error).splitlines()[0]
        try:
            seen = [self._seen(rank) for rank in range(self.size)]
        except RuntimeError as unknown:
            return (
                f"rank {self.rank} of {self.size} waited in vain at {what}, and the store that "
                f"knows of the others is gone, too ({unknown}; {cause})."
            )
        missing = [rank for rank, (turn, _) in enumerate(seen) if turn < seen[self.rank][0]]
        last = ", ".join(f"rank {rank} was last seen at {seen[rank][1]}" for rank in missing)
        if not missing:
            return f"rank {self.rank} of {self.size} lost a connection at {what} ({cause})."
        return (
            f"ranks {missing} of {self.size} did not come to {what} within {self.timeout:g} s, or "
            f"are gone ({last}; {cause}). The last checkpoint is as it was."
        )


ALONE: Final = World()
"""The world without a launcher."""
