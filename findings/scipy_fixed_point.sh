#!/usr/bin/env bash
# SciPy's accelerated fixed_point fails on a contraction that plain iteration solves.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "scipy==1.17.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import warnings

import numpy as np
import scipy
from scipy.optimize import fixed_point

warnings.simplefilter("ignore")
print("scipy", scipy.__version__, "numpy", np.__version__)


def outcome(factor, method):
    """Distance to the fixed point of a rotation that shrinks by `factor`, or the end."""
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    shift = np.array([1.0, 2.0])
    truth = np.linalg.solve(np.eye(2) - factor * turn, shift)
    try:
        found = fixed_point(lambda x: factor * turn @ x + shift, np.zeros(2), method=method)
    except RuntimeError as error:
        return str(error)
    return float(np.abs(found - truth).max())


for factor in (0.5, 0.7, 0.9):
    plain, accelerated = outcome(factor, "iteration"), outcome(factor, "del2")
    print(f"contraction {factor}: iteration {plain:.0e}; del2: {accelerated}")
    assert plain < 1e-5
    assert isinstance(accelerated, str)
# Aitken's formula is applied to each coordinate as if it were a scalar map of its own.
scalar = fixed_point(lambda x: 0.5 * x + 1.0, 0.0, method="del2")
print("a scalar map, del2:", float(scalar))
assert abs(scalar - 2.0) < 1e-12
PY
