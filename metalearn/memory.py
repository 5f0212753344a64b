"""Bytes of tensors that are alive at a time, counted exactly and the same on every run.

Every tensor that an operation returns lies in a storage. A storage is counted from the operation
that makes it until it is freed; views share one, and what autograd saves is a storage like others.
Not counted: work space inside an operation, and the interpreter.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def mebibytes(amount: int) -> str:
    """An amount as it is said."""
    return f"{amount / 2**20:.1f} MiB"


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations inside the `with` block make.

    Storages that were there before are not counted, unless given.

    Args:
        present: tensors (parameters, data) to count from the start.

    Attributes:
        now: bytes alive.
        peak: most bytes alive at a time.
    """

    def __init__(self, present: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}
        for tensor in present:
            self._count(tensor, made=True)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and count what it returns."""
        for part in tree_iter((args, kwargs)):
            if isinstance(part, Tensor):
                self._count(part, made=False)  # what comes from outside, to know it if it returns
        result = func(*args, **(kwargs or {}))
        for part in tree_iter(result):
            if isinstance(part, Tensor):
                self._count(part, made=True)
        return result

    def _count(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = storage.nbytes() if made else 0
        # no function defined here: the type checker of tests would wrap one at each call
        self._alive[key] = weakref.ref(storage, partial(self._freed, key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _freed(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self.now -= size
