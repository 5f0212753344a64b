#!/usr/bin/env bash
# lsq_linear's default method succeeds and misses bounds that hold with equality.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "scipy==1.17.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import scipy
from scipy.optimize import lsq_linear

print("scipy", scipy.__version__)
draw = np.random.default_rng(0)
missed, largest, successes = 0, 0.0, 0
for _ in range(200):
    matrix = draw.normal(size=(30, 10)) * np.logspace(0, -2, 10)
    right = draw.normal(size=30)
    default = lsq_linear(matrix, right, (-1, 1))
    exact = lsq_linear(matrix, right, (-1, 1), method="bvls")  # by active sets
    multiplier = matrix.T @ (matrix @ exact.x - right)
    bound = exact.active_mask != 0
    # the exact answer fulfils its conditions: no slope inside, a multiplier of the right sign on a bound
    assert np.abs(multiplier[~bound]).max(initial=0) < 1e-10
    assert (multiplier * exact.active_mask)[bound].max(initial=-1) < 0
    successes += default.success
    missed += not np.array_equal(default.active_mask, exact.active_mask)
    largest = max(largest, np.abs(default.x - exact.x).max())
print(f"success {successes} of 200; set of active bounds wrong in {missed}; x off by at most {largest:.0e}")
assert successes == 200 and missed >= 10 and largest < 1e-3
PY
