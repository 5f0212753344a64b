#!/usr/bin/env bash
# A fused optimiser's step is not seen by autograd, which then uses the new weights silently.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)


def gradient_of_the_old_loss(optimiser, **options):
    """d/dw of w^3, its graph made at w = 2 and used after a step."""
    weight = torch.nn.Parameter(torch.tensor([2.0]))
    chosen = optimiser([weight], lr=0.5, **options)
    loss = weight.pow(3).sum()
    weight.grad = torch.ones(1)
    version = weight._version
    chosen.step()
    written = weight._version - version
    try:
        (gradient,) = torch.autograd.grad(loss, weight)
    except RuntimeError as error:
        return written, "RuntimeError" if "inplace" in str(error) else str(error)
    return written, gradient.item()


for optimiser in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad):
    for options in ({"foreach": False}, {"foreach": True}, {"fused": True}):
        written, got = gradient_of_the_old_loss(optimiser, **options)
        print(f"{optimiser.__name__:8} {options!s:18} writes counted {written}: {got}")
        if "fused" in options:
            assert written == 0 and isinstance(got, float) and abs(got - 12.0) > 0.5
        else:
            assert written > 0 and got == "RuntimeError"
print("The gradient at w = 2, where the graph was made, is 12.")
PY
