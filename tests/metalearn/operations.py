"""Every operation of a block, shown to a function."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# What torch hands over is untyped: a named seam.
Note = Callable[[str, tuple[Any, ...], dict[str, Any], Any], None]
"""Given an operation's name, arguments, keywords and answer."""


class Operations(TorchDispatchMode):
    """Shows each operation inside the `with` block."""

    def __init__(self, note: Note) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        self._note(func.overloadpacket.__name__, args, kwargs or {}, answer)
        return answer
