#!/usr/bin/env bash
# all_reduce with MAX over gloo keeps a NaN of rank 0 and loses one of rank 1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
cat >"$folder/two_ranks.py" <<'PY'
import math
import os
import tempfile

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def rank(index, meeting):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=2)
    for name in ("MAX", "MIN", "SUM"):
        for broken in (0, 1):
            worst = torch.tensor([math.nan if index == broken else 1e-6])
            dist.all_reduce(worst, getattr(dist.ReduceOp, name))
            lost = not worst.isnan().item()
            if index == 0:
                print(f"{name}, NaN on rank {broken}: {worst.item()}", flush=True)
            assert lost == (broken == 1 and name != "SUM")
    dist.destroy_process_group()


if __name__ == "__main__":
    print("torch", torch.__version__, flush=True)
    with tempfile.TemporaryDirectory() as place:
        mp.spawn(rank, (os.path.join(place, "meeting"),), nprocs=2)
    local = torch.tensor([1e-6, math.nan]).max()
    print("one process, max of the two:", local.item())
    assert local.isnan()
PY
"$folder/venv/bin/python" "$folder/two_ranks.py"
