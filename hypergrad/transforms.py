"""Guards against torch's function transforms (torch.func, forward-mode AD) in a call.

torch publishes no way to ask. Its private names, those of torch 2.6 to 2.13, stand here and in
``engine.py`` only.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from hypergrad.errors import InputError, TransformError

_functorch: Any = torch._C._functorch
innermost: Any = _functorch.peek_interpreter_stack
"""The transform that runs, None outside of all."""

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


def outside_compilers(function: Callable[Arguments, Answer]) -> Callable[Arguments, Answer]:
    """The function, which torch.compile leaves to Python: one graph break for a whole call.

    A solver looks at values and walks graphs, and each would be a break of its own. The compiler is
    loaded when it first meets the function, and not by the import of this library.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        if torch.compiler.is_compiling():
            hidden: Callable[Arguments, Answer] = torch.compiler.disable(function)
            return hidden(*args, **kwargs)
        return function(*args, **kwargs)

    return run


def transforming(*tensors: Tensor) -> bool:
    """True if a torch.func transform runs, or a tensor carries a forward-mode tangent."""
    if innermost() is not None:
        return True
    if not tensors or _forward_level() < 0:
        return False
    unpack: Any = torch.autograd.forward_ad.unpack_dual
    return any(unpack(tensor).tangent is not None for tensor in tensors)


def _forward_level() -> int:
    level: int = torch.autograd.forward_ad._current_level
    return level


def refuse_tracing() -> None:
    """Raise under a tracer of torch.fx, which ``torch.func.linearize`` runs.

    Solvers look at values, and a trace would hold those of one tangent as constants.

    Raises:
        TransformError: naming the ways round.
    """
    tracer = sys.modules.get("torch.fx.experimental.proxy_tensor")
    if tracer is not None and tracer.get_proxy_mode() is not None:
        raise TransformError(
            "torch.func.linearize (or make_fx) traces this call, and a solver that looks at values "
            "can't be traced; use torch.func.jvp or jacfwd, which give the same derivative."
        )


def refuse_forward_twice() -> None:
    """Raise where forward mode runs over forward mode.

    torch runs a node's rule for tangents with forward mode switched off, so that the tangents of
    the outer one would silently be zero (torch 2.6 to 2.13).

    Raises:
        TransformError: naming the ways round.
    """
    stack = _functorch.get_interpreter_stack() or ()
    forward = sum(one.key() == _functorch.TransformType.Jvp for one in stack)
    if forward + (_forward_level() >= 0 and not forward) > 1:
        raise TransformError(
            "forward mode over forward mode (jacfwd of jacfwd, jvp of jvp) can't go through a "
            "minimiser: torch would drop the outer tangent. Use reverse mode for one of them: "
            "torch.func.hessian, jacrev or grad, in either order."
        )


def is_transformed(tensor: Tensor) -> bool:
    """True if a torch.func transform has wrapped the tensor."""
    return bool(_functorch.is_functorch_wrapped_tensor(tensor))


def is_mapped(tensor: Tensor) -> bool:
    """True if vmap has wrapped the tensor, at any level."""
    while is_transformed(tensor):
        if _functorch.is_batchedtensor(tensor):
            return True
        tensor = _functorch.get_unwrapped(tensor)
    return False


def refuse_captured(objective: Callable[..., Any]) -> None:
    """Raise if the lower objective visibly captures a tensor of a transform.

    Raises:
        TransformError: naming the tensor.
    """
    if any(is_transformed(tensor) for _, tensor in _captured(objective)):
        raise captured_by_transform(objective, "the lower objective")


def captured_by_transform(objective: Callable[..., Any], subject: str) -> InputError:
    """The error for an objective that captures a tensor of a transform, naming it if possible."""
    found = [name for name, tensor in _captured(objective) if is_transformed(tensor)]
    named = f"captures {', '.join(found)}, which" if found else "captures a tensor that"
    return TransformError(
        f"{subject} {named} a torch.func transform (grad, jvp or vmap) differentiates "
        "or maps: its derivative would be lost. Pass it in theta (a tree may hold it)."
    )


class NothingCaptured(TorchFunctionMode):
    """Raises where an objective, evaluated outside the transforms, uses a tensor of one of them.

    torch would take the tensor's value and drop its derivative.
    """

    def __init__(self, objective: Callable[..., Any]) -> None:
        super().__init__()
        self._objective = objective

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the arguments of each operation, but for those within a transform of its own."""
        if innermost() is None:
            for part in pytree.tree_leaves((args, kwargs)):
                if isinstance(part, Tensor) and is_transformed(part):
                    raise captured_by_transform(self._objective, "the lower objective")
        return func(*args, **(kwargs or {}))


def is_batched_twice(tensor: Tensor) -> bool:
    """True if ``is_grads_batched=True`` has put several cotangents into the tensor."""
    return bool(_functorch.is_legacy_batchedtensor(tensor))


def _captured(objective: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors in the closure, the bound object and the partial arguments, with their names.

    Functions that a frozen value holds (a condition's objective, say) are looked into.
    """
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
    held = dict(getattr(bound, "__dict__", {}))
    if is_dataclass(bound) and not isinstance(bound, type):
        held = {field.name: getattr(bound, field.name) for field in fields(bound)}
    for name, value in held.items():
        for part in pytree.tree_leaves(value) if is_dataclass(bound) else [value]:
            if isinstance(part, Tensor):
                yield f"{name!r}", part
            elif is_dataclass(bound) and (is_dataclass(part) or callable(part)):
                yield from _captured(part)


def one_by_one(
    rule: Callable[..., tuple[Tensor, ...]], vectors: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """``rule(*vectors)``; one by one where torch brings several cotangents or tangents at once.

    ``is_grads_batched=True`` and ``vectorize=True`` run rules under an older vmap, which knows no
    rules of nodes and lets no value be looked at. Its dimension is taken off and put back.
    """
    if not any(_functorch.is_legacy_batchedtensor(part) for part in vectors):
        return rule(*vectors)
    level = torch._C._vmapmode_increment_nesting() - 1
    torch._C._vmapmode_decrement_nesting()
    batched = next(part for part in vectors if _functorch.is_legacy_batchedtensor(part))
    size = torch._remove_batch_dim(batched, level, 1, 0).shape[0]
    plain = [torch._remove_batch_dim(part, level, size, 0) for part in vectors]
    columns = [rule(*(part[index] for part in plain)) for index in range(size)]
    return tuple(
        torch._add_batch_dim(torch.stack(parts), 0, level) for parts in zip(*columns, strict=True)
    )
