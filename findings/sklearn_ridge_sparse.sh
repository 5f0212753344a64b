#!/usr/bin/env bash
# Ridge gives a sparse copy of the same data another answer, without a warning.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "scikit-learn==1.9.1" "scipy==1.17.1" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import warnings

import numpy as np
import scipy.sparse
import sklearn
from sklearn.linear_model import Ridge

print("scikit-learn", sklearn.__version__)
warnings.simplefilter("error")
draw = np.random.default_rng(0)
for condition in (1e0, 1e2, 1e4):
    features = draw.normal(size=(300, 30)) * np.logspace(0, -np.log10(condition) / 2, 30)
    targets = features @ draw.normal(size=30) + draw.normal(size=300)
    matrix = features.T @ features + 1e-3 * np.eye(30)
    exact = np.linalg.solve(matrix, features.T @ targets)
    off = {}
    for form, data in (("dense", features), ("sparse", scipy.sparse.csr_array(features))):
        model = Ridge(alpha=1e-3, fit_intercept=False).fit(data, targets)
        off[form] = np.linalg.norm(model.coef_ - exact) / np.linalg.norm(exact)
        print(f"condition {np.linalg.cond(matrix):.0e}, {form:6} ({model.solver_}): {off[form]:.1e} off")
    assert off["dense"] < 1e-9
assert off["sparse"] > 0.01
PY
