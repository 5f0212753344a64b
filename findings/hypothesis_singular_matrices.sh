#!/usr/bin/env bash
# Matrices drawn by hypothesis are nearly all singular.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "hypothesis==6.170.15" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import hypothesis
import numpy as np
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

print("hypothesis", hypothesis.__version__, "numpy", np.__version__)


def study(size, **options):
    """Share of regular matrices among 300, and the median number of different entries."""
    regular, different = [], []

    @seed(0)
    @settings(max_examples=300, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(arrays(np.float64, (size, size), elements=st.floats(-1, 1), **options))
    def look(matrix):
        regular.append(np.linalg.matrix_rank(matrix) == size)
        different.append(len(np.unique(matrix)))

    look()
    return np.mean(regular), np.median(different)


for size in (2, 4, 8, 16):
    share, different = study(size)
    each, _ = study(size, fill=st.nothing())
    print(
        f"{size} x {size}: {share:.0%} regular, {different:.0f} different entries of {size * size}; "
        f"each entry drawn for itself: {each:.0%} regular"
    )
    assert size < 8 or share < 0.25
PY
