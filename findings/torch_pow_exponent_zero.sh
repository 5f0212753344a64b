#!/usr/bin/env bash
# The Hessian of x**e is not symmetric where e is zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.func import grad, hessian

torch.set_default_dtype(torch.float64)
print("torch", torch.__version__)
power = lambda z: z[0] ** z[1]
for exponent in (0.0, 1e-6):
    found = hessian(power)(torch.tensor([2.0, exponent]))
    print(f"x = 2, e = {exponent:g}: d/de d/dx = {found[0, 1]:.4f}, d/dx d/de = {found[1, 0]:.4f}")
    assert abs(found[1, 0] - 0.5) < 1e-5  # 1/x
    assert abs(found[0, 1] - (0.5 if exponent else 0.0)) < 1e-5
logarithm = hessian(lambda z: torch.exp(z[1] * z[0].log()))(torch.tensor([2.0, 0.0]))
print(f"exp(e log x) at e = 0: {logarithm[0, 1]:.4f}, {logarithm[1, 0]:.4f}")
assert torch.allclose(logarithm[0, 1], logarithm[1, 0]) and abs(logarithm[0, 1] - 0.5) < 1e-12
third = grad(grad(grad(lambda x: x**x)))(torch.tensor(1.0))
print(f"third derivative of x**x at 1: {third:.1f} (true: 3)")
assert third == 2
PY
