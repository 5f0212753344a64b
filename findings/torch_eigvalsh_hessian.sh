#!/usr/bin/env bash
# The sum of squared eigenvalues has a gradient at the identity, and a Hessian of NaNs.
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


def spread(a):
    """Sum of squared eigenvalues of the symmetric part: a quadratic, its squared norm."""
    return torch.linalg.eigvalsh((a + a.T) / 2).square().sum()


def norm(a):
    return ((a + a.T) / 2).square().sum()


at = {
    "identity": torch.eye(3),
    "diag(1, 1, 2)": torch.diag(torch.tensor([1.0, 1.0, 2.0])),
    "diag(1, 1 + 1e-12, 2)": torch.diag(torch.tensor([1.0, 1.0 + 1e-12, 2.0])),
}
for name, a in at.items():
    gradient_error = (grad(spread)(a) - grad(norm)(a)).abs().max().item()
    found, truth = hessian(spread)(a), hessian(norm)(a)
    nans = int(found.isnan().sum())
    print(f"{name}: gradient off by {gradient_error:.0e}, NaNs in the Hessian {nans} of 81")
    assert gradient_error < 1e-12
    assert nans == (0 if "e-12" in name else 81)
    assert nans or (found - truth).abs().max() < 1e-3
PY
