#!/usr/bin/env bash
# torch.randn draws other numbers in chunks of fewer than 16 than at once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch

print("torch", torch.__version__)


def drawn(kind, sizes, dtype):
    """Numbers of one generator, drawn in pieces of these sizes."""
    generator = torch.Generator().manual_seed(0)
    return torch.cat([kind(size, generator=generator, dtype=dtype) for size in sizes])


for dtype in (torch.float32, torch.float64):
    for kind in (torch.rand, torch.randn):
        whole = drawn(kind, [32], dtype)
        for sizes in ([16, 16], [8, 8, 8, 8], [15, 17], [31]):
            pieces = drawn(kind, sizes, dtype)
            same = int((whole[: len(pieces)] == pieces).sum())
            print(f"{kind.__name__:5} {dtype}: pieces of {sizes!s:14} {same} of {len(pieces)} as at once")
            if kind is torch.rand or sizes == [16, 16]:
                assert same == len(pieces)
            elif min(sizes) < 16:
                assert same == 0
            else:  # the last 16 of a length that is no multiple of 16 are drawn again
                assert 0 < same < len(pieces)
PY
