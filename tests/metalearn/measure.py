"""Counts of what a step costs: convolutions, operations, and the bytes that graphs keep."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class Convolutions(TorchDispatchMode):
    """Counts what the backbone can't run without, below autograd, in forward and backward.

    Attributes:
        calls: of each kind of convolution.
        multiplications: of each kind, whatever the batching: `output x filter` for a forward; as
            many again for each of the two gradients of a backward.
        operations: of all kinds, convolutions or not.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.multiplications: Counter[str] = Counter()
        self.operations = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        name = func.overloadpacket.__name__
        if name == "convolution":
            self._count(name, result, weight=args[1], products=1)
        elif name == "convolution_backward":
            gradient, _, weight = args[:3]
            self._count(name, gradient, weight=weight, products=sum(args[-1][:2]))
        return result

    def _count(self, name: str, result: Tensor, *, weight: Tensor, products: int) -> None:
        self.calls[name] += 1
        self.multiplications[name] += products * result.numel() * weight[0].numel()


class SavedBytes(torch.autograd.graph.saved_tensors_hooks):
    """Bytes of the distinct storages that graphs built in the `with` block keep for backward.

    Attributes:
        now: kept at this moment.
        peak: most kept at a time.
    """

    def __init__(self) -> None:
        super().__init__(self._pack, lambda saved: saved.tensor)
        self.now = self.peak = 0
        self._keepers: Counter[int] = Counter()

    def __enter__(self) -> SavedBytes:  # type: ignore[override]  # torch's returns nothing
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> _Saved:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if not self._keepers[key]:
            self.now += size
            self.peak = max(self.peak, self.now)
        self._keepers[key] += 1
        # detached: what a node saves of its own output would otherwise keep the node itself alive
        saved = _Saved(tensor.detach())
        weakref.finalize(saved, self._let_go, key, size).atexit = False
        return saved

    def _let_go(self, key: int, size: int) -> None:
        self._keepers[key] -= 1
        if not self._keepers[key]:
            del self._keepers[key]
            self.now -= size


class _Saved:
    """A tensor that a graph keeps."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def saved_bytes(build: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that the graph of a loss still keeps once it is built."""
    with SavedBytes() as saved:
        loss = build()
        assert loss.requires_grad
        return saved.now
