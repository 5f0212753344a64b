#!/usr/bin/env bash
# np.unique_values is not sorted, though np.unique and its other three relatives are.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np

print("numpy", np.__version__)
labels = np.array([7, 3, 99, 12, 3, 7, 1000, 1])  # class numbers of the files of a data set
values, inverse = np.unique_inverse(labels)
ways = {
    "unique": np.unique(labels),
    "unique_inverse": values,
    "unique_counts": np.unique_counts(labels).values,
    "unique_all": np.unique_all(labels).values,
    "unique_values": np.unique_values(labels),
}
for name, found in ways.items():
    print(f"{name:15} {found.tolist()}")
    assert sorted(found.tolist()) == [1, 3, 7, 12, 99, 1000]
    assert (found.tolist() == sorted(found.tolist())) == (name != "unique_values")

# Names by one and numbers by another: the classes of most images are then other ones.
mixed = ways["unique_values"][inverse]
wrong = int((mixed != labels).sum())
print("unique_values()[unique_inverse().inverse_indices]:", mixed.tolist())
print(f"for {labels.tolist()}: {wrong} of {len(labels)} wrong")
assert wrong > 0 and (values[inverse] == labels).all()
PY
