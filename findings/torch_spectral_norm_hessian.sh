#!/usr/bin/env bash
# A layer under spectral_norm has a right gradient and a wrong Hessian.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch import nn

print("torch", torch.__version__)
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
layer = nn.Linear(4, 3, bias=False)
layer = nn.utils.parametrizations.spectral_norm(layer, n_power_iterations=200)
inputs = torch.randn(5, 4)
layer(inputs)
NAME = "parametrizations.weight.original"
point = dict(layer.named_parameters())[NAME].detach().clone()
direction = torch.randn(3, 4)


def torchs(weight):
    return torch.func.functional_call(layer, {NAME: weight}, (inputs,)).square().sum()


def written_out(weight):
    return (inputs @ (weight / torch.linalg.matrix_norm(weight, 2)).mT).square().sum()


def derivatives(loss, at=point):
    weight = at.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(weight), weight, create_graph=True)
    (product,) = torch.autograd.grad(gradient, weight, direction)
    return gradient.detach(), product


step = 1e-5


def difference(loss):
    ahead, behind = (derivatives(loss, point + sign * step * direction)[0] for sign in (1, -1))
    return (ahead - behind) / (2 * step)


(gradient, product), (right_gradient, right_product) = derivatives(torchs), derivatives(written_out)


def off(found, expected):
    return float((found - expected).norm() / expected.norm())


own, exact = difference(torchs), difference(written_out)
print(f"gradient: {off(gradient, right_gradient):.1e} off; differences of it: {off(own, exact):.1e} off")
print(f"Hessian product: {off(product, exact):.2f} off, written out {off(right_product, exact):.1e}")
assert off(gradient, right_gradient) < 1e-12
assert off(own, exact) < 1e-6 and off(right_product, exact) < 1e-6
assert off(product, exact) > 0.1
PY
