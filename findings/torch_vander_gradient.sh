#!/usr/bin/env bash
# torch.vander can't be differentiated; linalg.vander, which computes the same, can.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
x = torch.tensor([2.0, 3.0, 4.0], requires_grad=True)
assert torch.equal(torch.vander(x, increasing=True), torch.linalg.vander(x))
(gradient,) = torch.autograd.grad(torch.linalg.vander(x).sum(), x)
print("linalg.vander:", gradient.tolist())
assert torch.equal(gradient, 1 + 2 * x)
try:
    torch.autograd.grad(torch.vander(x, increasing=True).sum(), x)
except RuntimeError as error:
    print("vander:", str(error).split(":")[0])
    assert "modified by an inplace operation" in str(error)
else:
    raise AssertionError("vander was differentiated")
PY
