#!/usr/bin/env bash
# Giving SciPy's gmres a callback that does nothing changes the answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "scipy==1.17.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import warnings

import numpy as np
import scipy
from scipy.sparse.linalg import gmres

warnings.simplefilter("ignore", DeprecationWarning)
print("scipy", scipy.__version__, "numpy", np.__version__)
rng = np.random.default_rng(0)
matrix = np.diag(np.linspace(1, 100, 60)) + rng.normal(size=(60, 60))
side = rng.normal(size=60)


def solve(**options):
    """Relative residual and products of ten restarts of ten steps."""
    count = 0

    def product(v):
        nonlocal count
        count += 1
        return matrix @ v

    operator = scipy.sparse.linalg.LinearOperator(matrix.shape, matvec=product, dtype=float)
    x, _ = gmres(operator, side, rtol=1e-12, restart=10, maxiter=10, **options)
    return np.linalg.norm(side - matrix @ x) / np.linalg.norm(side), count


alone = solve()
watched = solve(callback=lambda residual: None)
named = solve(callback=lambda residual: None, callback_type="pr_norm")
print("no callback:                          residual %.0e, %d products" % alone)
print("a callback that does nothing:         residual %.0e, %d products" % watched)
print("the same with callback_type='pr_norm': residual %.0e, %d products" % named)
# maxiter counts restarts, unless there is a callback of no named type: then it counts steps
assert alone == named and alone[0] < 1e-3
assert watched[0] > 100 * alone[0] and watched[1] < 20 < 90 < alone[1]
PY
