#!/usr/bin/env bash
# Recomputation with a generator of one's own gives the gradient of another function.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.utils.checkpoint import checkpoint

print("torch", torch.__version__)


def dropped(x, generator):
    """Squares of the entries that a mask keeps."""
    mask = torch.bernoulli(torch.full_like(x, 0.5), generator=generator)
    return (mask * x).square()


def value_and_gradient(generator, *, reentrant):
    torch.manual_seed(0)
    x = torch.ones(12, requires_grad=True)
    y = checkpoint(dropped, x, generator, use_reentrant=reentrant)
    y.sum().backward()
    return y.detach(), x.grad


for reentrant in (False, True):
    y, gradient = value_and_gradient(torch.Generator().manual_seed(0), reentrant=reentrant)
    print(f"use_reentrant={reentrant}, own generator")
    print("  values   ", y.int().tolist())
    print("  gradients", gradient.int().tolist())
    wrong = int((gradient != 2 * y).sum())
    assert wrong > 0
    y, gradient = value_and_gradient(None, reentrant=reentrant)
    print(f"  {wrong} of 12 wrong; with torch's own generator {int((gradient != 2 * y).sum())}")
    assert torch.equal(gradient, 2 * y)
PY
