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
basis, _ = torch.linalg.qr(left.double())
matrix = (basis * torch.logspace(0, -2, 512, dtype=torch.float64)) @ basis.mT  # condition 100


def residual():
    """Relative residual of 200 steps of conjugate gradients in float32."""
    a, b = matrix.float(), right[:, :1]
    x, r, p, rr = torch.zeros_like(b), b, b, b.square().sum()
    for _ in range(200):
        ap = a @ p
        x, r = x + rr / (p * ap).sum() * p, r - rr / (p * ap).sum() * ap
        p, rr = r + r.square().sum() / rr * p, r.square().sum()
        if rr < 1e-12:
            break
    return float((b.double() - matrix @ x.double()).norm() / b.double().norm())


errors, residuals = {}, {}
for precision in ("highest", "high", "medium"):
    torch.set_float32_matmul_precision(precision)
    errors[precision] = float((left @ right - exact).abs().max() / exact.abs().max())
    residuals[precision] = residual()
    print(
        f"{precision:8} largest error {errors[precision]:.1e}, "
        f"residual of conjugate gradients {residuals[precision]:.1e}"
    )
assert errors["high"] == errors["highest"] < 1e-6
assert residuals["highest"] < 1e-4
assert has and errors["medium"] > 1000 * errors["highest"]  # shown on such processors only
assert residuals["medium"] > 0.01
PY
