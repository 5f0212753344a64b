"""Survey of torch's operations: is there a second derivative, and is it right?

    python -m benchmarks.double_backward --out benchmarks/results/double_backward.json

A lower objective is differentiated twice. Each operation here is made a scalar function of one
input; its product with a Hessian, by backward of backward, is compared with a central difference of
gradients, in float64. The table of docs/faq.md is this file's; run it again with another version.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.provenance import SEED, provenance, write

STEP = (
    1e-5  # of the central difference: its error is about 1e-10, a wrong derivative's is above 1e-3
)
WRONG = 1e-4


@dataclass(frozen=True)
class Operation:
    """One row.

    Attributes:
        name: for the table.
        shape: shape of the input.
        function: operation on the input; its values are weighted and summed.
        instead: operation to use where this has no second derivative, or a wrong one.
        point: input; None draws it.
    """

    name: str
    shape: tuple[int, ...]
    function: Callable[[Tensor], Tensor]
    instead: str = ""
    point: Tensor | None = None


def _weight_normed(x: Tensor) -> Tensor:
    module = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2).double())
    constant = torch.linspace(1, 2, 2).double()[:, None]
    given = {
        "parametrizations.weight.original0": constant,
        "parametrizations.weight.original1": x,
        "bias": torch.zeros(2).double(),
    }
    inputs = torch.linspace(-1, 1, 12).double().reshape(4, 3)
    output: Tensor = torch.func.functional_call(module, given, inputs)
    return output.square()


def _spectral(x: Tensor) -> Tensor:
    torch.manual_seed(SEED)
    module = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2), n_power_iterations=100)
    module = module.double()
    name = "parametrizations.weight.original"
    inputs = torch.linspace(-1, 1, 12).double().reshape(4, 3)
    torch.func.functional_call(module, {name: x}, (inputs,))  # to the singular vectors of x
    output: Tensor = torch.func.functional_call(module.eval(), {name: x}, (inputs,))
    return output.square()


def _sparse(x: Tensor) -> Tensor:
    places = torch.tensor([[0, 1, 2, 2], [1, 0, 1, 2]])
    matrix = torch.sparse_coo_tensor(places, x.sin(), (3, 3), check_invariants=True)
    product: Tensor = torch.sparse.mm(matrix, torch.linspace(-1, 1, 6).double().reshape(3, 2))
    return product.square()


def _attention(x: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(x, x.sin(), x.cos())


def _multihead(need_weights: bool) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        torch.manual_seed(SEED)
        module = nn.MultiheadAttention(4, 2, batch_first=True).double()
        output: Tensor = module(x, x, x, need_weights=need_weights)[0]
        return output

    return apply


def _recurrent(kind: type[nn.LSTM] | type[nn.GRU]) -> Callable[[Tensor], Tensor]:
    def apply(x: Tensor) -> Tensor:
        torch.manual_seed(SEED)
        output: Tensor = kind(3, 4).double()(x)[0]
        return output

    return apply


def _bag(x: Tensor) -> Tensor:
    where = torch.tensor([0, 2, 1, 1])
    return functional.embedding_bag(where, x, torch.tensor([0, 2]), mode="sum").sin()


def _ldl(x: Tensor) -> Tensor:
    factors, pivots = torch.linalg.ldl_factor(x @ x.mT + torch.eye(3).double())
    solved: Tensor = torch.linalg.ldl_solve(factors, pivots, torch.ones(3, 1).double())
    return solved


def _positive(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(3).double()


OPERATIONS: tuple[Operation, ...] = (
    Operation(
        "`cdist`, 10 points", (10, 3), lambda x: torch.cdist(x, x.sin()), "differences, squared"
    ),
    Operation("`cdist`, 30 points", (30, 3), lambda x: torch.cdist(x, x.sin())),
    Operation("`scaled_dot_product_attention`, 3-D", (2, 5, 4), _attention),
    Operation(
        "`scaled_dot_product_attention`, 4-D",
        (1, 2, 5, 4),
        _attention,
        "3-D inputs, heads in the batch; or softmax and matmul",
    ),
    Operation("`MultiheadAttention(need_weights=True)`", (2, 5, 4), _multihead(True)),
    Operation(
        "`MultiheadAttention(need_weights=False)`",
        (2, 5, 4),
        _multihead(False),
        "`need_weights=True`",
    ),
    Operation("`embedding_bag`", (4, 3), _bag, "`embedding`, then a sum"),
    Operation(
        "`embedding`", (4, 3), lambda x: functional.embedding(torch.tensor([0, 2, 1]), x).sin()
    ),
    Operation(
        "`segment_reduce`",
        (4, 3),
        lambda x: torch.segment_reduce(x.sin(), "sum", lengths=torch.tensor([1, 3])),
        "`index_add`",
    ),
    Operation(
        "`index_add`",
        (4, 3),
        lambda x: torch.zeros(2, 3).double().index_add(0, torch.tensor([0, 1, 1, 0]), x.sin()),
    ),
    Operation("`linalg.ldl_solve`", (3, 3), _ldl, "`linalg.solve`, `cholesky_solve`"),
    Operation("`linalg.solve`", (3, 3), lambda x: torch.linalg.solve(_positive(x), x)),
    Operation("`linalg.cholesky`", (3, 3), lambda x: torch.linalg.cholesky(_positive(x))),
    Operation(
        "`parametrizations.weight_norm`",
        (2, 3),
        _weight_normed,
        "`v * (g / v.norm(dim=1))` by hand",
    ),
    Operation(
        "`parametrizations.spectral_norm`",
        (2, 3),
        _spectral,
        "`w / linalg.matrix_norm(w, 2)` by hand",
    ),
    Operation("values of a `sparse_coo_tensor`", (4,), _sparse, "`index_put`, or `index_add`"),
    Operation(
        "`sinc` at zero", (3,), torch.sinc, "its series near zero", point=torch.zeros(3).double()
    ),
    Operation(
        "`x ** e` at e = 0, as a function of both",
        (2, 3),
        lambda z: z[0] ** z[1],
        "`exp(e * log(x))`",
        point=torch.tensor([[0.5, 1.0, 2.0], [0.0, 0.0, 0.0]]).double(),
    ),
    Operation(
        "`rfft(x).abs() ** 2` of a constant",
        (4,),
        lambda x: torch.fft.rfft(x).abs() ** 2,
        "`view_as_real(rfft(x)).square()`",
        point=torch.ones(4).double(),
    ),
    Operation("`layer_norm`", (4, 3), lambda x: functional.layer_norm(x, (3,))),
    Operation(
        "`batch_norm`", (6, 3), lambda x: functional.batch_norm(x, None, None, training=True)
    ),
    Operation("`LSTM`", (5, 2, 3), _recurrent(nn.LSTM)),
    Operation("`GRU`", (5, 2, 3), _recurrent(nn.GRU)),
    Operation(
        "`cross_entropy`",
        (4, 3),
        lambda x: functional.cross_entropy(x, torch.tensor([0, 1, 2, 0]), reduction="none"),
    ),
    Operation(
        "`norm()**2` at zero",
        (3,),
        lambda x: x.norm() ** 2,
        "`square().sum()`",
        point=torch.zeros(3).double(),
    ),
    Operation(
        '`linalg.matrix_norm(ord="nuc")`, equal singular values',
        (3, 3),
        lambda x: torch.linalg.matrix_norm(x, ord="nuc"),
        "`Composite(g, plus=NuclearNorm(...))`",
        point=torch.eye(3).double(),
    ),
)


def verdict(operation: Operation) -> dict[str, object]:
    """Verdict on one operation's second derivative: none, wrong, or right, with its error."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x = draw(operation.shape) if operation.point is None else operation.point
    v = draw(tuple(x.shape))
    v = v / v.norm()
    weights: list[Tensor] = []

    def value(x: Tensor) -> Tensor:
        found = operation.function(x)
        if not weights:
            weights.append(draw(tuple(found.shape)) if found.shape else found.detach().new_ones(()))
        return (weights[0] * found).sum()

    def gradient(x: Tensor, *, keep: bool = False) -> tuple[Tensor, Tensor]:
        point = x.detach().requires_grad_()
        return torch.autograd.grad(value(point), point, create_graph=keep)[0], point

    try:
        slope, point = gradient(x, keep=True)
    except (RuntimeError, NotImplementedError) as error:
        return {"verdict": "no derivative at all", "error": None, "words": _first_line(error)}
    try:
        (product,) = torch.autograd.grad(slope, point, v)
    except (RuntimeError, NotImplementedError) as error:
        return {"verdict": "none", "error": None, "words": _first_line(error)}
    if not bool(product.isfinite().all()):
        return {"verdict": "not finite", "error": None, "words": ""}
    difference = (gradient(x + STEP * v)[0] - gradient(x - STEP * v)[0]) / (2 * STEP)
    off = float((product - difference).norm() / difference.norm())
    right = "yes" if off < WRONG else "wrong"
    return {"verdict": right, "error": float(f"{off:.2g}"), "words": ""}


def table(results: dict[str, dict[str, object]]) -> str:
    """The rows of docs/faq.md."""
    rows = ["| operation | second derivative | instead |", "| --- | --- | --- |"]
    instead = {operation.name: operation.instead for operation in OPERATIONS}
    for name, found in results.items():
        kind = str(found["verdict"])
        off = f", off by {float(str(found['error'])):.0%}" if kind == "wrong" else ""
        rows.append(f"| {name} | {kind}{off} | {'' if kind == 'yes' else instead[name]} |")
    return "\n".join(rows)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:120]


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, help="where the result file goes")
    asked = parser.parse_args()
    found = {operation.name: verdict(operation) for operation in OPERATIONS}
    print(table(found))
    if asked.out is not None:
        write(asked.out, {"provenance": provenance(), "operations": found})


if __name__ == "__main__":
    main()
