#!/usr/bin/env bash
# The Hessian of the nuclear norm is wrong where two singular values are equal, though it exists.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def nuclear(matrix):
    return torch.linalg.matrix_norm(matrix, ord="nuc")


def polar(matrix):
    """Its gradient where no singular value is 0, smooth there: matrix (matrix' matrix)^(-1/2)."""
    inverse = torch.linalg.inv(matrix)  # Newton's iteration for the polar factor
    current = matrix
    for _ in range(60):
        current = (current + inverse.mT) / 2
        inverse = torch.linalg.inv(current)
    return current


left, _ = torch.linalg.qr(torch.randn(3, 3))
right, _ = torch.linalg.qr(torch.randn(3, 3))
direction = torch.randn(3, 3)
for values in ([3.0, 2.0, 1.0], [2.0, 2.0, 1.0], [1.0, 1.0, 1.0]):
    point = left @ torch.diag(torch.tensor(values)) @ right
    gradient = torch.func.grad(nuclear)(point)
    assert torch.allclose(gradient, polar(point), atol=1e-10)
    step = 1e-5
    exact = (polar(point + step * direction) - polar(point - step * direction)) / (2 * step)
    hessian = torch.autograd.functional.hessian(nuclear, point).reshape(9, 9)
    product = (hessian @ direction.reshape(9)).reshape(3, 3)
    off = float((product - exact).norm() / exact.norm())
    uneven = float((hessian - hessian.mT).abs().max())
    print(f"singular values {values}: product {off:.1e} off, asymmetric by {uneven:.1e}")
    wrong = len(set(values)) < 3
    assert (off > 0.01) == wrong or not torch.isfinite(hessian).all()
    if values == [2.0, 2.0, 1.0]:
        assert off > 0.01 and uneven > 0.01
PY
