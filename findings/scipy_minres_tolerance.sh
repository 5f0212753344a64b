#!/usr/bin/env bash
# SciPy's minres reports success at half of the right-hand side unsolved.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "scipy==1.17.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import scipy
from scipy.sparse import linalg

print("scipy", scipy.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
basis, _ = np.linalg.qr(rng.standard_normal((200, 200)))
right = rng.standard_normal(200)
for condition in (1e2, 1e4, 1e6):
    matrix = (basis * np.geomspace(1, condition, 200)) @ basis.T
    residuals = {}
    for solver in (linalg.cg, linalg.minres):
        x, info = solver((matrix + matrix.T) / 2, right, rtol=1e-5, maxiter=20000)
        assert info == 0
        residuals[solver.__name__] = np.linalg.norm(right - matrix @ x) / np.linalg.norm(right)
    print(f"condition {condition:.0e}, rtol 1e-5, info 0:", end=" ")
    print(", ".join(f"{name} leaves {residual:.0e}" for name, residual in residuals.items()))
    assert residuals["cg"] < 1.1e-5 and residuals["minres"] > 5e-4
assert residuals["minres"] > 0.3
PY
