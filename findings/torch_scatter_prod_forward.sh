#!/usr/bin/env bash
# The forward derivative of scatter_reduce with products is zero.
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
where, x = torch.tensor([0, 0, 1]), torch.tensor([2.0, 3.0, 5.0])
for kind in ("sum", "mean", "amax", "amin", "prod"):

    def reduced(x):
        return torch.ones(2).scatter_reduce(0, where, x, kind, include_self=False).square().sum()

    forward, backward = jacfwd(reduced)(x), jacrev(reduced)(x)
    print(f"{kind:4} forward {forward.tolist()}, backward {backward.tolist()}")
    assert torch.equal(forward, torch.zeros(3) if kind == "prod" else backward)
    assert backward.any()
PY
