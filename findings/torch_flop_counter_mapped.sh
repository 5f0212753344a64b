#!/usr/bin/env bash
# FlopCounterMode counts the weight gradient of tasks mapped together once for every pair of tasks.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import torch
from torch.utils.flop_counter import FlopCounterMode

print("torch", torch.__version__)


def loss(weight, images):
    return torch.nn.functional.conv2d(images, weight, padding=1).square().sum()


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


for tasks in (1, 2, 4, 8):
    weights = torch.randn(tasks, 16, 16, 3, 3, requires_grad=True)
    images = torch.randn(tasks, 5, 16, 8, 8)
    alone = counted(
        lambda: torch.autograd.grad(sum(map(loss, weights, images)), weights)
    )
    mapped = counted(
        lambda: torch.autograd.grad(torch.func.vmap(loss)(weights, images).sum(), weights)
    )
    print(f"{tasks} tasks: {alone:,} one after another, {mapped:,} mapped: {mapped / alone:.1f} times")
    # one pass forward, one for the weights' gradient, which counts the blocks between tasks too
    assert mapped == alone * (1 + tasks) // 2
PY
