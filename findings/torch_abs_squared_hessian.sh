#!/usr/bin/env bash
# The squared absolute value, of a real or complex number, has no second derivative at zero.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.func import hessian

torch.set_default_dtype(torch.float64)
print("torch", torch.__version__)
signal = torch.ones(4)  # a constant: every frequency but 0 is exactly zero
cases = {
    "rfft(x).abs() ** 2": lambda x: torch.fft.rfft(x).abs().square().sum(),
    "real ** 2 + imag ** 2": lambda x: torch.view_as_real(torch.fft.rfft(x)).square().sum(),
}
for name, power in cases.items():
    found = hessian(power)(signal)
    print(f"{name}: {found[0].tolist()}")
    expected = [2.0, 2.0, 2.0, 2.0] if "abs" in name else [6.0, 0.0, 2.0, 0.0]
    assert torch.allclose(found[0], torch.tensor(expected))
real = hessian(lambda x: x.abs() ** 2)(torch.tensor(0.0))
print("abs(x) ** 2 at 0:", real.item(), "(true: 2)")
assert real == 0
PY
