#!/usr/bin/env bash
# An unrolled step of Adam has a NaN derivative where a gradient is zero, in spite of eps.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

torch.set_default_dtype(torch.float64)
print("torch", torch.__version__)


def derivative(optimiser, start):
    """d(sum of the iterate)/d(start) after one differentiable step on the squared norm."""
    theta = torch.tensor(start, requires_grad=True)
    phi = theta.clone()
    chosen = optimiser([phi], lr=0.1, differentiable=True)
    here = phi.clone()  # the step writes into phi, so the loss is of a copy
    (phi.grad,) = torch.autograd.grad(here.square().sum(), here, create_graph=True)
    chosen.step()
    (result,) = torch.autograd.grad(phi.sum(), theta)
    return phi.detach().tolist(), result.tolist()


for optimiser in (torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop):
    value, result = derivative(optimiser, [1.0, 0.0])
    print(f"{optimiser.__name__:8} iterate {value} derivative {result}")
    assert all(abs(v) <= 1.0 for v in value)
    assert (result[1] != result[1]) == (optimiser is not torch.optim.SGD)
# eps is added to the root of the average, whose own slope at 0 is infinite.
_, result = derivative(torch.optim.Adam, [1.0, 1e-9])
print("Adam, second entry 1e-9: derivative", result)
gradient, eps = 2e-9, 1e-8
assert abs(result[1] / (1 - 0.1 * 2 * eps / (gradient + eps) ** 2) - 1) < 1e-6  # right, and huge
PY
