"""Modules as objectives: their parameters as trees, their calls without side effects."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from hypergrad.errors import InputError


def parameters(module: nn.Module, *, tasks: tuple[int, ...] | None = None) -> dict[str, Tensor]:
    """A module's parameters as a tree.

    Args:
        module: any module.
        tasks: None gives the live parameters, for use as theta. A shape gives detached copies with
            these leading dimensions, one set for each task, for use as phi; ``()`` gives one set.

    Returns:
        Names to tensors, in the module's order.

    Raises:
        InputError: the module has no parameters.
    """
    named = dict(module.named_parameters())
    if not named:
        raise InputError(f"{type(module).__name__} has no parameters to differentiate.")
    if tasks is None:
        return dict(named)
    return {
        name: value.detach().expand(*tasks, *value.shape).clone() for name, value in named.items()
    }


def call(module: nn.Module, phi: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
    """The module's output with other parameters; the module itself is left as it was.

    If the parameters have leading dimensions that the module's own don't have, these are tasks:
    inputs must have them too, and each task's inputs meet its own parameters, all in one call.

    Args:
        module: supplies the structure, and its buffers.
        phi: parameters, as :func:`parameters` names them.
        inputs: passed on.

    Raises:
        InputError: names or shapes don't fit; or the module would change a buffer, or draw random
            numbers, which an objective must not do.
    """
    own = dict(module.named_parameters())
    if own.keys() != phi.keys():
        raise InputError(
            f"the parameters are named {sorted(phi)}, but the module's are {sorted(own)}; use "
            "hypergrad.parameters(module)."
        )
    name, value = next(iter(phi.items()))
    depth = value.ndim - own[name].ndim
    for name, value in phi.items():
        if value.ndim - own[name].ndim != depth or value.shape[depth:] != own[name].shape:
            raise InputError(
                f"phi[{name!r}] has shape {tuple(value.shape)}; the module's has "
                f"{tuple(own[name].shape)}, before which all must have the same tasks' dimensions."
            )
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.training and part.track_running_stats:
            raise InputError(
                f"{name or 'the module'} is a {type(part).__name__} in training mode, which "
                "changes its running statistics at every call; set track_running_stats=False, or "
                "call eval()."
            )
    # The module's buffers are never handed out, so that a refused change leaves no trace.
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    before = {name: buffer._version for name, buffer in buffers.items()}

    def one(values: dict[str, Tensor], *arguments: Tensor) -> Tensor:
        output: Tensor = functional_call(module, {**values, **buffers}, arguments)
        return output

    function = one
    for _ in range(depth):
        function = torch.vmap(function, randomness="error")
    try:
        output = function(dict(phi), *inputs)
    except RuntimeError as error:
        if "random operation" not in str(error):
            raise
        raise InputError(
            "the module draws random numbers (dropout?), so that no two evaluations of the "
            "objective agree; call module.eval(), or draw outside the objective."
        ) from error
    for name, buffer in buffers.items():
        if buffer._version != before[name]:
            raise InputError(
                f"the module changes its buffer {name!r} when called; an objective must leave no "
                "trace. Keep such statistics outside it."
            )
    return output
