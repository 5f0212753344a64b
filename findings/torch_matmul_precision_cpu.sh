#!/usr/bin/env bash
# A setting said to concern CUDA alone makes float32 matrix products on a CPU 5,000 times less accurate.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)
text = " ".join(torch.set_float32_matmul_precision.__doc__.split())
said = "This flag currently only affects one native device type: CUDA."
print("its manual:", said)
assert said in text
flags = open("/proc/cpuinfo").read()
has = "amx_bf16" in flags or "avx512_bf16" in flags
print("processor multiplies bfloat16:", has)
generator = torch.Generator().manual_seed(0)
left = torch.randn(512, 512, generator=generator)
right = torch.randn(512, 512, generator=generator)
exact = left.double() @ right.double()
errors = {}
for precision in ("highest", "high", "medium"):
    torch.set_float32_matmul_precision(precision)
    errors[precision] = float((left @ right - exact).abs().max() / exact.abs().max())
    print(f"{precision:8} largest error {errors[precision]:.1e}")
assert errors["high"] == errors["highest"] < 1e-6
assert has and errors["medium"] > 1000 * errors["highest"]  # shown on such processors only
PY
