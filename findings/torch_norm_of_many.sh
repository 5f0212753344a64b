#!/usr/bin/env bash
# On a CPU the float32 norm of many entries is that of a naive sum, although sums are not naive.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
OMP_NUM_THREADS=1 "$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
torch.manual_seed(0)
weights = torch.randn(30_000_000)


def off(found, expected):
    return abs(float(found) / float(expected) - 1)


one, two = weights.double().abs().sum(), weights.double().square().sum().sqrt()
errors = {
    "vector_norm(ord=1)": off(torch.linalg.vector_norm(weights, ord=1), one),
    "abs().sum()": off(weights.abs().sum(), one),
    "vector_norm()": off(torch.linalg.vector_norm(weights), two),
    "square().sum().sqrt()": off(weights.square().sum().sqrt(), two),
}
print(", ".join(f"{name} {error:.1e} off" for name, error in errors.items()))
assert errors["vector_norm(ord=1)"] > 1e-2 and errors["abs().sum()"] < 1e-6
assert errors["vector_norm()"] > 5e-4 and errors["square().sum().sqrt()"] < 1e-6
ones = torch.ones(100_000_000)
print("a hundred million ones:", torch.linalg.vector_norm(ones, ord=1).item(), ones.abs().sum().item())
assert torch.linalg.vector_norm(ones, ord=1) < 2e7 and ones.abs().sum() == 1e8
PY
