#!/usr/bin/env bash
# The gradient of w[labels] adds up in 16 bits; that of w.index_select(0, labels) does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn import functional as F

print("torch", torch.__version__)
count = 4096
labels = torch.zeros(count, dtype=torch.long)
ways = {
    "w[labels]": lambda w: w[labels],
    "embedding(labels, w)": lambda w: F.embedding(labels, w),
    "w.index_select(0, labels)": lambda w: w.index_select(0, labels),
    "w.expand(4096, 1)": lambda w: w.expand(count, 1),
    "one_hot(labels) @ w": lambda w: F.one_hot(labels, 1).to(w) @ w,
}
for dtype, stall in ((torch.bfloat16, 256.0), (torch.float16, 2048.0)):
    print(dtype, "gradient of a sum over 4096 examples of one class; 4096 is right")
    for name, gather in ways.items():
        weight = torch.ones(1, 1, dtype=dtype, requires_grad=True)
        (gradient,) = torch.autograd.grad(gather(weight).sum(), weight)
        print(f"  {name:26} {gradient.item()}")
        stalls = name in ("w[labels]", "embedding(labels, w)")
        assert gradient.item() == (stall if stalls else count), name
PY
