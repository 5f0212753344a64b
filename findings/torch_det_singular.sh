#!/usr/bin/env bash
# The gradient of det at a singular matrix is zero, unless a graph of it is asked for.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

torch.set_default_dtype(torch.float64)
print("torch", torch.__version__)
for matrix, cofactors in (
    (torch.ones(2, 2), torch.tensor([[1.0, -1.0], [-1.0, 1.0]])),
    (
        torch.arange(1.0, 10.0).view(3, 3),
        torch.tensor([[-3.0, 6.0, -3.0], [6.0, -12.0, 6.0], [-3.0, 6.0, -3.0]]),
    ),
):
    matrix.requires_grad_()
    (plain,) = torch.autograd.grad(torch.linalg.det(matrix), matrix)
    (graphed,) = torch.autograd.grad(torch.linalg.det(matrix), matrix, create_graph=True)
    print(f"{len(matrix)} x {len(matrix)}: plain", plain.tolist(), "with a graph", graphed.tolist())
    assert not plain.any()
    assert torch.allclose(graphed, cofactors, rtol=1e-10)
PY
