#!/usr/bin/env bash
# The forward derivative of cholesky_inverse is wrong, the backward one right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.func import jacfwd, jacrev

torch.set_default_dtype(torch.float64)
print("torch", torch.__version__)


def factor(t):
    return torch.stack([2 + t, 0 * t, t, 1.5 + t * t]).view(2, 2)


cases = {
    "cholesky_inverse": lambda t: torch.cholesky_inverse(factor(t)).sum(),
    "cholesky_solve": lambda t: torch.cholesky_solve(torch.eye(2), factor(t)).sum(),
    "inv": lambda t: torch.linalg.inv(factor(t) @ factor(t).mT).sum(),
}
t = torch.tensor(0.5)
for name, f in cases.items():
    truth = (f(t + 1e-6) - f(t - 1e-6)) / 2e-6
    forward, backward = (float(jac(f)(t) / truth - 1) for jac in (jacfwd, jacrev))
    print(f"{name:16} off by {forward:+.0e} forward, {backward:+.0e} backward")
    assert abs(backward) < 1e-7
    assert (abs(forward) > 1e-2) == (name == "cholesky_inverse")
PY
