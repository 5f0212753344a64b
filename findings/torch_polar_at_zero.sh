#!/usr/bin/env bash
# torch.polar has no gradient in a magnitude of zero, and one of the wrong sign in a negative one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import math

import torch

torch.set_default_dtype(torch.float64)
print("torch", torch.__version__)
angle = torch.tensor(0.5)
for size, slope in ((0.5, 1), (0.0, 0), (-0.5, -1)):
    magnitude = torch.tensor(size, requires_grad=True)
    real = torch.polar(magnitude, angle).real
    assert abs(real.item() - size * math.cos(0.5)) < 1e-15  # the value is linear in the magnitude
    (backward,) = torch.autograd.grad(real, magnitude)
    one = torch.ones(())
    forward = torch.func.jvp(lambda m: torch.polar(m, angle).real, (magnitude.detach(),), (one,))[1]
    print(f"magnitude {size:+.1f}: backward {backward:+.3f}, forward {forward:+.3f}", end=", ")
    print(f"true {math.cos(0.5):+.3f}")
    assert abs(backward.item() - slope * math.cos(0.5)) < 1e-15
PY
