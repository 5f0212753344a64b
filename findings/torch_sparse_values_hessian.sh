#!/usr/bin/env bash
# What is computed from the values of a sparse tensor has a right gradient, and loses its second derivative.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" -W ignore - <<'PY'
import torch

print("torch", torch.__version__)
torch.set_default_dtype(torch.float64)
torch.sparse.check_sparse_tensor_invariants.enable()
places = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
features = torch.linspace(-1, 2, 12).reshape(4, 3)
point = torch.tensor([0.5, -1.0, 2.0, 0.3])
direction = torch.tensor([1.0, 2.0, -1.0, 0.5])


def sparse(values):
    graph = torch.sparse_coo_tensor(places, values.square(), (4, 4))
    return torch.sparse.mm(graph, features).square().sum()


def dense(values):
    graph = torch.zeros(4, 4).index_put((places[0], places[1]), values.square())
    return (graph @ features).square().sum()


def derivatives(loss):
    values = point.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(values), values, create_graph=True)
    (product,) = torch.autograd.grad(gradient, values, direction)
    return gradient.detach(), product


(gradient, product), (dense_gradient, dense_product) = derivatives(sparse), derivatives(dense)
print("gradient, sparse and dense:", gradient.tolist(), dense_gradient.tolist())
print("Hessian product, sparse and dense:", product.tolist(), dense_product.tolist())
assert torch.allclose(gradient, dense_gradient)
# the loss is of fourth order in the values: of 12 v^2 only the 4 v^2 of the squares are left
assert torch.allclose(product, dense_product / 3)

values = point.clone().requires_grad_()
loss = torch.sparse_coo_tensor(places, values, (4, 4)).to_dense().pow(3).sum()
(gradient,) = torch.autograd.grad(loss, values, create_graph=True)
print("sum of cubes by to_dense: gradient", gradient.tolist(), "differentiable:", gradient.requires_grad)
assert torch.allclose(gradient, 3 * values.square()) and not gradient.requires_grad
PY
