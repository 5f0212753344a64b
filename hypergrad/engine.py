"""Torch's engine for derivatives and its vmap, without the checks that their public faces make.

Those checks are made in Python, for each of a solve's many products. Names that torch does not
publish, those of torch 2.6 to 2.13, stand here and in ``transforms.py`` only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._functorch import vmap as _vmap
from torch.autograd.graph import _engine_run_backward

from hypergrad.errors import InputError

_functorch: Any = torch._C._functorch
_load_rules: Any = cache(_vmap.lazy_load_decompositions)  # type: ignore[attr-defined]
LeafNode: Any = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]
"""The node at which a graph ends in a leaf."""


def pulled(
    output: Tensor,
    points: Sequence[Tensor],
    vector: Tensor,
    *,
    keep: bool = True,
    record: bool = False,
    unused: bool = True,
) -> tuple[Tensor | None, ...]:
    """``(d output / d points)' vector``, as ``torch.autograd.grad`` gives it.

    Args:
        output: a tensor with a graph.
        points: leaves or intermediate tensors, in which it is differentiated.
        vector: like the output.
        keep: true keeps the output's graph for another product.
        record: true gives the result a graph, too.
        unused: true allows a point that plays no part, and gives None; torch raises if false.

    Raises:
        InputError: a vector of another shape, which the engine would sum until it fits.
    """
    if vector.shape != output.shape:
        raise InputError(
            f"a product got a vector of shape {tuple(vector.shape)}; it takes one of shape "
            f"{tuple(output.shape)}."
        )
    found: tuple[Tensor | None, ...] = _engine_run_backward(
        (output,), (vector,), keep, record, tuple(points), unused, accumulate_grad=False
    )
    return found


def filled(parts: Sequence[Tensor | None], points: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Derivatives or directions, zero where there is none."""
    pairs = zip(points, parts, strict=True)
    return tuple([torch.zeros_like(at) if part is None else part for at, part in pairs])


def vectorised(product: Callable[[Tensor], Tensor], vectors: Tensor) -> Tensor:
    """Columns ``(*batch, n, k)``: the product with each of ``vectors (k, *batch, n)``, at once."""
    _load_rules()
    size = vectors.shape[0]
    level = _functorch._vmap_increment_nesting(size, "error")
    try:
        images = product(_functorch._add_batch_dim(vectors, 0, level))
        columns: Tensor = _functorch._remove_batch_dim(images, level, size, -1)
        return columns
    finally:
        _functorch._vmap_decrement_nesting()
