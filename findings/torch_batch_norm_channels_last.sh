#!/usr/bin/env bash
# float32 batch normalisation loses two to three digits in the channels-last layout.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.nn import functional as F

torch.set_num_threads(1)
print("torch", torch.__version__)


def errors(images, size):
    """Worst error of the normalised values in both layouts, against float64."""
    torch.manual_seed(0)
    x = torch.randn(images, 32, size, size) + 3
    truth = F.batch_norm(x.double(), None, None, training=True)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        y = F.batch_norm(x.contiguous(memory_format=layout), None, None, training=True)
        found.append((y - truth).abs().max().item())
    return found


print("worst error in float32 of values of size 4: contiguous, channels last")
for images, size in ((25, 21), (75, 42), (75, 84)):
    plain, last = errors(images, size)
    print(f"  {images} images of {size} x {size}: {plain:.0e}, {last:.0e}")
    assert plain < 2e-6 < 1e-5 < last
# In float64 the layouts agree to rounding, so that it is the precision of the sums.
x = torch.randn(25, 32, 21, 21, dtype=torch.float64) + 3
last = F.batch_norm(x.contiguous(memory_format=torch.channels_last), None, None, training=True)
assert (F.batch_norm(x, None, None, training=True) - last).abs().max() < 1e-12
PY
