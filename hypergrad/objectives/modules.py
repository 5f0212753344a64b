"""Modules as objectives: their parameters as trees, their calls without side effects."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrize import is_parametrized

from hypergrad.errors import InputError


def parameters(
    module: nn.Module,
    *,
    tasks: tuple[int, ...] | None = None,
    only: str | Sequence[str] = (),
    but: str | Sequence[str] = (),
) -> dict[str, Tensor]:
    """A module's parameters as a tree; frozen ones (``requires_grad=False``) are left out.

    A part of a module is adapted by giving it as phi and the rest as theta::

        theta = parameters(net, but="head")
        phi = parameters(net, only="head", tasks=(T,))
        outputs = call(net, {**theta, **phi}, inputs)

    A rest that stays as it is: ``parameters(net, but="head", tasks=())``, detached copies.

    Args:
        module: any module.
        tasks: None gives the live parameters, for use as theta. A shape gives detached copies with
            these leading dimensions, one set for each task, for use as phi; ``()`` gives one set.
        only: names of parts ("head", "blocks.3") or of parameters ("head.bias"): these alone.
        but: the same: all others.

    Returns:
        Names to tensors, in the module's order.

    Raises:
        InputError: the module has no parameters, or only frozen ones; a name is no part's; or
            nothing is left.
    """
    named = {name: leaf for name, leaf in module.named_parameters() if leaf.requires_grad}
    if not named:
        raise InputError(
            f"{type(module).__name__} has no parameters to differentiate: it has none, or all are "
            "frozen; set requires_grad_() on those that are to be trained."
        )
    wanted, unwanted = _within(module, "only", only), _within(module, "but", but)
    chosen: dict[str, Tensor] = {
        name: leaf
        for name, leaf in named.items()
        if (not only or name in wanted) and name not in unwanted
    }
    if not chosen:
        raise InputError(
            f"no parameter of {type(module).__name__} that is not frozen is left by only={only!r} "
            f"and but={but!r}; without them there are {', '.join(named)}."
        )
    if tasks is None:
        return chosen
    return {
        name: value.detach().expand(*tasks, *value.shape).clone() for name, value in chosen.items()
    }


def _within(module: nn.Module, argument: str, parts: object) -> set[str]:
    """The names of all parameters within these parts.

    Raises:
        InputError: no names; or a part has no parameter, or none but tied ones of another name.
    """
    given = [parts] if isinstance(parts, str) else parts
    if not isinstance(given, Sequence) or not all(isinstance(part, str) for part in given):
        raise InputError(
            f"{argument}={parts!r} is no name of a part, nor several; give names as "
            'module.named_modules() has them, "head" say, or leave it out.'
        )
    every = dict(module.named_parameters())
    found: set[str] = set()
    for part in given:
        inside = {name for name in every if _is_within(name, part)}
        tied = {
            id(leaf)
            for name, leaf in module.named_parameters(remove_duplicate=False)
            if _is_within(name, part)
        }
        if not inside and tied:
            known = [name for name, leaf in every.items() if id(leaf) in tied]
            raise InputError(
                f"{argument}={part!r} names parameters that are tied to others, and known by their "
                f"first names: {', '.join(known)}. Give those."
            )
        if not inside:
            own = sorted({name.partition(".")[0] for name in every})
            raise InputError(
                f"{argument}={part!r} names no part of {type(module).__name__} that has "
                f"parameters; it has {', '.join(own)}, and what is within them by full names."
            )
        found |= inside
    return found


def _is_within(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def call(module: nn.Module, phi: Mapping[str, Tensor], *inputs: Tensor) -> Tensor:
    """The module's output with other parameters; the module itself is left as it was.

    If some of the parameters have leading dimensions that the module's own don't have, these are
    tasks: inputs must have them too, and each task's inputs meet its own parameters, all in one
    call. Parameters without them are shared by the tasks. Modules that ``torch.vmap`` can't batch
    (recurrent ones) are called for one task after the other.

    Args:
        module: supplies the structure, its buffers, and the frozen parameters that phi leaves out.
        phi: parameters, as :func:`parameters` names them.
        inputs: passed on.

    Raises:
        InputError: names or shapes don't fit; or the module would change a buffer, or draw random
            numbers, which an objective must not do.
    """
    depths = _depths(module, phi)
    tasks = next((phi[name].shape[:depth] for name, depth in depths.items() if depth), torch.Size())
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

    def one(values: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        output: Tensor = functional_call(module, {**values, **buffers}, inputs)
        return output

    function: Callable[..., Tensor] = one
    where = {name: 0 if depth else None for name, depth in depths.items()}
    for _ in tasks:
        function = torch.vmap(function, (where, *(0 for _ in inputs)), randomness="error")
    try:
        output = function(dict(phi), *inputs) if tasks else _without_draws(one, dict(phi), *inputs)
    except RuntimeError as error:
        if "random operation" in str(error):
            raise _drew() from error
        if "atching rule not implemented" not in str(error):
            raise
        output = _one_by_one(one, dict(phi), depths, tasks, inputs)
    for name, buffer in buffers.items():
        if buffer._version != before[name]:
            raise InputError(
                f"the module changes its buffer {name!r} when called; an objective must leave no "
                "trace. Keep such statistics outside it."
            )
    return output


def _depths(module: nn.Module, phi: Mapping[str, Tensor]) -> dict[str, int]:
    """The number of tasks' dimensions of each parameter: 0, or the same number for all others.

    Raises:
        InputError: names or shapes don't fit.
    """
    own = dict(module.named_parameters())
    missing = [name for name, leaf in own.items() if leaf.requires_grad and name not in phi]
    computed = [name for name in phi if name not in own and _is_computed(module, name)]
    if computed:
        originals = sorted(name for name in own if ".parametrizations." in f".{name}")
        raise InputError(
            f"phi[{computed[0]!r}] is computed by a parametrisation of the module, which would be "
            "run backwards and change the module's own parameters; give what it is computed from: "
            f"{originals}, as hypergrad.objectives.parameters(module) does."
        )
    if missing or not phi or not phi.keys() <= own.keys():
        raise InputError(
            f"the parameters are named {sorted(phi)}, but the module's are {sorted(own)}, of which "
            "only frozen ones may be left out; use hypergrad.parameters(module), or freeze what is "
            "not to be given by requires_grad_(False)."
        )
    depths = {name: value.ndim - own[name].ndim for name, value in phi.items()}
    deepest = max(depths, key=lambda name: depths[name])
    tasks = phi[deepest].shape[: max(depths[deepest], 0)]
    for name, value in phi.items():
        if value.shape not in (own[name].shape, tasks + own[name].shape):
            raise InputError(
                f"phi[{name!r}] has shape {tuple(value.shape)}; the module's has "
                f"{tuple(own[name].shape)}, before which each must have the same tasks' "
                f"dimensions, {tuple(tasks)} here, or none."
            )
    return depths


def _is_computed(module: nn.Module, name: str) -> bool:
    """True if a parametrisation of a part of the module computes the tensor of this name."""
    path, _, tensor = name.rpartition(".")
    parts = dict(module.named_modules())
    return path in parts and is_parametrized(parts[path], tensor)


def _one_by_one(
    function: Callable[..., Tensor],
    phi: Mapping[str, Tensor],
    depths: Mapping[str, int],
    tasks: torch.Size,
    inputs: tuple[Tensor, ...],
) -> Tensor:
    """Each task's output, by a call of its own; ``(*tasks, ...)``."""
    outputs = []
    for index in product(*map(range, tasks)):
        mine = {name: value[index] if depths[name] else value for name, value in phi.items()}
        outputs.append(_without_draws(function, mine, *(given[index] for given in inputs)))
    together: Tensor = torch.stack(outputs).unflatten(0, tasks)
    return together


def _without_draws(
    function: Callable[..., Tensor], values: dict[str, Tensor], *inputs: Tensor
) -> Tensor:
    """The function's value.

    Raises:
        InputError: the module drew random numbers, as the state of a generator changed.
    """
    devices = {leaf.device for leaf in (*values.values(), *inputs) if leaf.device.type == "cuda"}
    before = _random_states(devices)
    output = function(values, *inputs)
    if not all(map(torch.equal, before, _random_states(devices))):
        raise _drew()
    return output


def _random_states(devices: Iterable[torch.device]) -> list[Tensor]:
    """The states of torch's own generators: the CPU's, and those of these GPUs."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]


def _drew() -> InputError:
    return InputError(
        "the module draws random numbers (dropout?), so that no two evaluations of the "
        "objective agree; call module.eval(), or draw outside the objective."
    )
