"""Questions on purity: an objective leaves no trace, and two evaluations agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hypergrad.checks.findings import Finding, compare
from hypergrad.checks.problem import Plain, Problem
from hypergrad.tree import fresh_leaf, leaves, like, names

STATE, DETERMINISM = "unchanged state", "determinism"

# Repeats if random numbers were drawn: dropout on a handful of numbers may draw one mask twice.
_REPEATS = 8


@dataclass(slots=True, eq=False)
class Trace:
    """Side effects of an evaluation.

    Attributes:
        written: tensors from before the evaluation that it changed in place, with their values
            before and the operation.
        drawn: operations that drew random numbers.
    """

    written: list[tuple[Tensor, Tensor, str]] = field(default_factory=list)
    drawn: set[str] = field(default_factory=set)

    def restore(self) -> None:
        """Undo every change, the last first."""
        with torch.no_grad():
            for tensor, before, _ in reversed(self.written):
                tensor.copy_(before)


class _Watch(TorchDispatchMode):
    """Sees every operation below autograd with the tensors it writes to.

    A tensor was made by the evaluation if its storage first appeared as an output; one whose
    storage first appears as an input was there before. Storages are held, so that none is freed
    and its address given to another.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._made: dict[int, tuple[Any, bool]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, made=False)
        name = str(func).removeprefix("aten.")
        if torch.Tag.nondeterministic_seeded in func.tags:
            self.trace.drawn.add(name)
        for tensor in _tensors(_written(func, args, kwargs)):
            if tensor.layout == torch.strided and not self._meet(tensor, made=False):
                self.trace.written.append((tensor, tensor.detach().clone(), name))
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self._meet(tensor, made=True)
        return result

    def _meet(self, tensor: Tensor, *, made: bool) -> bool:
        """True if the evaluation made this tensor."""
        if tensor.layout != torch.strided:
            return made
        storage = tensor.untyped_storage()
        return self._made.setdefault(storage._cdata, (storage, made))[1]


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The arguments that an operation's schema says it writes to."""
    if torch.Tag.inplace_view in func.tags:  # changes a view's shape, no number
        return []
    schema = func._schema.arguments
    values = {argument.name: value for argument, value in zip(schema, args, strict=False)} | kwargs
    written = [
        values.get(argument.name)
        for argument in schema
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    # batch norm's older kernels write to their running statistics without saying so (torch 2.13:
    # native_batch_norm); the argument is called training, or train in some
    forward = "batch_norm" in str(func) and "backward" not in str(func)
    if forward and (values.get("training") or values.get("train")):
        written += [values.get("running_mean"), values.get("running_var")]
    return written


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, dict):
        for entry in nested.values():
            yield from _tensors(entry)
    elif isinstance(nested, list | tuple):
        for entry in nested:
            yield from _tensors(entry)


@contextmanager
def leaving_no_trace() -> Iterator[Trace]:
    """Watch what happens inside, and undo it: tensors and torch's random state."""
    watch = _Watch()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            with watch:
                yield watch.trace
        finally:
            watch.trace.restore()


def examine_purity(problem: Problem) -> list[Finding]:
    """State and determinism, of both objectives."""
    traces, changes = {}, {}
    bilevel = problem.plain
    for role, objective in (("lower", bilevel.lower), ("upper", bilevel.upper)):
        assert isinstance(objective, Plain)
        first, trace = _evaluate(problem, objective)
        traces[role] = trace
        seen = [first]
        for repeat in range(1, _REPEATS if trace.drawn else 2):
            seen.append(_evaluate(problem, objective, burn=repeat)[0])
        changes[role] = max(_distance(first, other, problem.length()) for other in seen[1:])
    return [_state(problem, traces), _determinism(problem, traces, changes)]


def _evaluate(
    problem: Problem, objective: Callable[[Any, Any], Tensor], *, burn: int = 0
) -> tuple[list[Tensor], Trace]:
    """Values and gradients in phi, from the state in which the objective was handed in.

    The random state is put back too, so each repeat first burns a few numbers.
    """
    probes = [fresh_leaf(leaf) for leaf in leaves(problem.phi)]
    theta = like(problem.theta, (fresh_leaf(leaf) for leaf in leaves(problem.theta)))
    with leaving_no_trace() as trace:
        device = probes[0].device
        torch.rand(burn, device=device)
        trace.drawn.clear()
        with torch.enable_grad():
            values = objective(theta, like(problem.phi, probes))
            seen_values = values.detach().clone()
            gradients: list[Tensor] = []
            if values.requires_grad:
                parts = torch.autograd.grad(
                    values.sum(), probes, allow_unused=True, materialize_grads=True
                )
                gradients = [part.clone() for part in parts]
    return [seen_values, *gradients], trace


def _distance(one: list[Tensor], other: list[Tensor], length: Tensor) -> float:
    """The relative change of values, and of gradients in units of values: ``|phi| |gradient|``."""
    scale, change = 0.0, 0.0
    for index, (left, right) in enumerate(zip(one, other, strict=True)):
        if left.shape != right.shape:
            return torch.inf
        unit = 1.0 if index == 0 else float(length.max())
        scale = max(scale, unit * float(left.abs().max()))
        change = max(change, unit * float((left - right).abs().max()))
    return change / scale if scale > 0 else change


def _state(problem: Problem, traces: dict[str, Trace]) -> Finding:
    known = {
        leaf.untyped_storage()._cdata: label
        for tree, name in ((problem.theta, "theta"), (problem.phi, "phi"))
        for label, leaf in zip(names(tree, name), leaves(tree), strict=True)
    }
    changes: dict[str, None] = {}
    for role, trace in traces.items():
        for tensor, _, operation in trace.written:
            label = known.get(tensor.untyped_storage()._cdata, "a tensor")
            words = f"the {role} objective changes {label} {tuple(tensor.shape)} by {operation}"
            changes[words] = None
    count = sum(len(trace.written) for trace in traces.values())
    return compare(
        STATE,
        float(count),
        0.0,
        "; ".join(changes) or "in-place changes of tensors from before",
        "keep the objective from changing tensors in place (put batch norm in eval() or set "
        "track_running_stats=False; write b = b + 1 for b += 1)",
    )


def _determinism(problem: Problem, traces: dict[str, Trace], changes: dict[str, float]) -> Finding:
    role = max(changes, key=lambda role: changes[role])
    drawn = ", ".join(sorted(traces[role].drawn))
    culprit = f" (draws random numbers: {drawn})" if drawn and changes[role] else ""
    # On a GPU the order of a sum's terms may change, and each sum with it by a few eps of its
    # largest term: 100 eps is beyond what that does to sums of any length met in practice, and
    # far below what a random number does.
    return compare(
        DETERMINISM,
        changes[role],
        100 * problem.eps,
        f"change of the {role} objective when called again{culprit}",
        "draw random numbers once, outside the objective, or call module.eval() to turn dropout "
        "off, so that two evaluations agree",
    )
