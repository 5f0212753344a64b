"""What torch's function transforms (torch.func, forward-mode AD) do to tensors in a call.

torch publishes no way to ask. The private names, those of torch 2.6 to 2.13, stand here only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hypergrad.errors import InputError, TransformError

_functorch: Any = torch._C._functorch


def transforming(*tensors: Tensor) -> bool:
    """Whether a torch.func transform runs, or one of the tensors carries a forward-mode tangent."""
    if _functorch.peek_interpreter_stack() is not None:
        return True
    if _forward_level() < 0:
        return False
    unpack: Any = torch.autograd.forward_ad.unpack_dual
    return any(unpack(tensor).tangent is not None for tensor in tensors)


def _forward_level() -> int:
    level: int = torch.autograd.forward_ad._current_level
    return level


def is_transformed(tensor: Tensor) -> bool:
    """Whether a torch.func transform has wrapped the tensor."""
    return bool(_functorch.is_functorch_wrapped_tensor(tensor))


def captured_by_transform(objective: Callable[..., Any], role: str) -> InputError:
    """The error for an objective that captures a tensor of a transform, naming it if possible."""
    found = [name for name, tensor in _captured(objective) if is_transformed(tensor)]
    named = f"captures {', '.join(found)}, which" if found else "captures a tensor that"
    return TransformError(
        f"the {role} objective {named} a torch.func transform (grad, jvp or vmap) differentiates "
        "or maps: its derivative would be lost. Pass it in theta (a tree may hold it)."
    )


def _captured(objective: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the closure, the bound object and the partial arguments, with their names."""
    inner = getattr(objective, "func", getattr(objective, "__func__", objective))
    names = getattr(getattr(inner, "__code__", None), "co_freevars", ())
    for name, cell in zip(names, getattr(inner, "__closure__", None) or (), strict=True):
        try:
            content = cell.cell_contents
        except ValueError:  # a variable that is not bound yet
            continue
        if isinstance(content, Tensor):
            yield f"{name!r}", content
    bound = getattr(objective, "__self__", objective)
    for name, value in getattr(bound, "__dict__", {}).items():
        if isinstance(value, Tensor):
            yield f"{name!r}", value


def over_batched_cotangents(
    back: Callable[..., tuple[Tensor, ...]], cotangents: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """``back(*cotangents)``; one by one where torch brings several at once.

    ``is_grads_batched=True`` and ``vectorize=True`` run backward under an older vmap, which knows
    no rules of nodes and lets no value be looked at. Its dimension is taken off and put back.
    """
    if not any(_functorch.is_legacy_batchedtensor(part) for part in cotangents):
        return back(*cotangents)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batched = next(part for part in cotangents if _functorch.is_legacy_batchedtensor(part))
    size = torch._remove_batch_dim(batched, level, 1, 0).shape[0]
    plain = [torch._remove_batch_dim(part, level, size, 0) for part in cotangents]
    columns = [back(*(part[index] for part in plain)) for index in range(size)]
    return tuple(
        torch._add_batch_dim(torch.stack(parts), 0, level) for parts in zip(*columns, strict=True)
    )
