#!/usr/bin/env bash
# np.load(..., mmap_mode='r') maps nothing of an .npz: each look at an array reads it again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import tempfile
import tracemalloc

import numpy as np

print("numpy", np.__version__)
with tempfile.TemporaryDirectory() as place:
    images = np.zeros((2000, 84, 84), np.uint8)
    np.savez(f"{place}/split.npz", images=images)  # stored, not compressed
    np.save(f"{place}/split.npy", images)

    mapped = np.load(f"{place}/split.npy", mmap_mode="r")
    archive = np.load(f"{place}/split.npz", mmap_mode="r")  # no error, no warning
    print(".npy:", type(mapped).__name__, " .npz:", type(archive["images"]).__name__)
    assert isinstance(mapped, np.memmap) and not isinstance(archive["images"], np.memmap)
    assert archive["images"] is not archive["images"]  # nor is it kept

    peaks = {}
    for name, source in (("npy", lambda: mapped[7]), ("npz", lambda: archive["images"][7])):
        tracemalloc.start()
        source().sum()
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    print("bytes allocated to look at one picture of 7056 bytes:", peaks)
    assert peaks["npy"] < 100_000 and peaks["npz"] > images.nbytes
PY
