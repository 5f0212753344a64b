#!/usr/bin/env bash
# One element of np.logspace makes float32 arrays float64; a Python number does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np

print("numpy", np.__version__)
features = np.ones((4, 3), np.float32)
grid = np.logspace(-3, 0, 4)  # penalties to choose from
penalised = {
    "an element of the grid": features * grid[0],
    "float() of it": features * float(grid[0]),
    "an element of grid.tolist()": features * grid.tolist()[0],
    "np.sqrt(2)": features * np.sqrt(2),
    "2 ** 0.5": features * 2**0.5,
}
for name, result in penalised.items():
    print(f"float32 features times {name:28} {result.dtype}")
    wide = name in ("an element of the grid", "np.sqrt(2)")
    assert result.dtype == (np.float64 if wide else np.float32), name
in_place = features.copy()
in_place *= grid[0]
print(f"float32 features *= {'an element of the grid':31} {in_place.dtype}")
assert in_place.dtype == np.float32
PY
