#!/usr/bin/env bash
# The Hessian product of a normalised network or of a linear solve depends on which mode is outside.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.func import grad, jvp
from torch.nn import functional as F

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
print("torch", torch.__version__)
right_side = torch.randn(3)


def relative_errors(f, x):
    """u'Hv by both orders of the modes, against a central difference of the gradient."""
    u, v = torch.randn_like(x), torch.randn_like(x)
    step = 1e-5
    truth = ((grad(f)(x + step * v) - grad(f)(x - step * v)) / (2 * step) * u).sum()
    forward_over_reverse = (jvp(grad(f), (x,), (v,))[1] * u).sum()
    reverse_over_forward = (grad(lambda at: jvp(f, (at,), (v,))[1])(x) * u).sum()
    return [float(abs(h / truth - 1)) for h in (forward_over_reverse, reverse_over_forward)]


plain = torch.randn(8)
square = torch.randn(3, 3) + 3 * torch.eye(3)
cases = {
    "layer_norm": (lambda x: F.layer_norm(x, (8,)).pow(3).sum(), plain, True),
    "batch_norm": (
        lambda x: F.batch_norm(x.view(8, 1), None, None, training=True).pow(3).sum(),
        plain,
        True,
    ),
    "group_norm": (lambda x: F.group_norm(x.view(1, 4, 2), 2).pow(3).sum(), plain, False),
    "rms_norm": (lambda x: F.rms_norm(x, (8,)).pow(3).sum(), plain, False),
    "linalg.solve": (lambda a: torch.linalg.solve(a, right_side).pow(3).sum(), square, True),
    "linalg.slogdet": (lambda a: torch.linalg.slogdet(a)[1], square, True),
    "linalg.inv": (lambda a: (torch.linalg.inv(a) @ right_side).pow(3).sum(), square, False),
}
print("relative error of u'Hv in float64: jvp of grad, grad of jvp")
for name, (f, x, wrong) in cases.items():
    inner_reverse, inner_forward = relative_errors(f, x)
    print(f"  {name:15} {inner_reverse:.0e}  {inner_forward:.0e}")
    assert inner_reverse < 1e-6, name
    assert (inner_forward > 1e-2) == wrong, name
print("Without an error or a warning, four of seven lose a term where a jvp is differentiated.")
PY
