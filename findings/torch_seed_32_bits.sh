#!/usr/bin/env bash
# torch's CPU generator takes 64-bit seeds, and uses 32 bits of them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "torch==2.13.0" "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import torch

print("torch", torch.__version__, "numpy", np.__version__)


def episode(seed):
    """The classes that a 5-way task draws."""
    return torch.randperm(1200, generator=torch.Generator().manual_seed(seed))[:5].tolist()


for low in (0, 1, 123456789):
    high = low + 77 * 2**32
    print(f"seed {low}: {episode(low)}; seed {high}: {episode(high)}")
    assert torch.Generator().manual_seed(high).initial_seed() == high  # it is even remembered whole
    assert episode(low) == episode(high)

# Hash (run, episode) to 63 bits, as one would to keep episodes apart.
episodes = 200_000
seeds = [
    int(np.random.SeedSequence([0, index]).generate_state(1, np.uint64)[0] >> 1)
    for index in range(episodes)
]
whole, used = len(set(seeds)), len({seed % 2**32 for seed in seeds})
print(f"{episodes} hashed seeds: {whole} distinct numbers, {used} distinct streams")
assert whole == episodes and used < episodes
seen = {}
for index, seed in enumerate(seeds):
    other = seen.setdefault(seed % 2**32, index)
    if other != index:
        print(f"episodes {other} and {index} are the same: {episode(seed)}")
        assert episode(seed) == episode(seeds[other])
        break
PY
