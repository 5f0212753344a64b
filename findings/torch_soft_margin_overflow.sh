#!/usr/bin/env bash
# soft_margin_loss is infinite, with a gradient of NaN, where softplus is exact.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn import functional as F

print("torch", torch.__version__)
one = torch.ones(())
for score in (-88.0, -89.0):
    x = torch.tensor(score, requires_grad=True)
    losses = {
        "soft_margin_loss": F.soft_margin_loss(x, one),
        "softplus": F.softplus(-x),
        "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits(x, one),
    }
    for name, loss in losses.items():
        (slope,) = torch.autograd.grad(loss, x)
        print(f"score {score:.0f}, {name}: {loss.item():.1f}, gradient {slope.item():.1f}")
        wrong = name == "soft_margin_loss" and score < -88.5
        assert loss.isinf() == wrong and slope.isnan() == wrong
PY
