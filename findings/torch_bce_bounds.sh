#!/usr/bin/env bash
# binary_cross_entropy bounds its value, and not the derivatives that go with it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
torch.set_default_dtype(torch.float64)
for probability in (1e-10, 1e-30, 1e-50, 0.0):
    p = torch.tensor(probability, requires_grad=True)
    label = torch.tensor(1.0, requires_grad=True)
    value = torch.nn.functional.binary_cross_entropy(p, label)
    in_p, in_label = torch.autograd.grad(value, (p, label), create_graph=True)
    (twice,) = torch.autograd.grad(in_p, p)
    print(
        f"p = {probability:g}, label 1: value {value.item():.1f}, derivative in the label "
        f"{in_label.item():.1f}, in p {in_p.item():.1e}, second {twice.item():.1e}"
    )
# below exp(-100) the value is 100 times the label, so its derivative in the label is 100
assert value.item() == 100.0 and in_label.item() == float("inf")
# in p the value is constant there: both derivatives are 0
assert in_p.item() < -1e11 and twice.item() > 1e23
PY
