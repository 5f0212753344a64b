#!/usr/bin/env bash
# NumPy's SeedSequence can't tell a seed from the same seed with zeros behind it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "numpy==2.4.6"
"$folder/venv/bin/python" - <<'PY'
import numpy as np

print("numpy", np.__version__)


def draw(*numbers):
    return np.random.default_rng(list(numbers)).integers(0, 1000, 6).tolist()


run, split_run, first_episode = draw(7), draw(7, 0), draw(7, 0, 0)
print("(seed 7)                    ", run)
print("(seed 7, split 0)           ", split_run)
print("(seed 7, split 0, episode 0)", first_episode)
print("(seed 7, split 0, episode 1)", draw(7, 0, 1))
assert run == split_run == first_episode != draw(7, 0, 1)

# Numbers of 2^32 and more take two words, so that keys of one length can meet, too.
left, right = draw(2**32, 5), draw(0, 1 + 5 * 2**32)
print("(2^32, 5)                   ", left)
print("(0, 1 + 5 2^32)             ", right)
assert left == right

# Children made by spawn have keys of their own and do not meet their parent.
child = np.random.default_rng(np.random.SeedSequence(7).spawn(1)[0]).integers(0, 1000, 6).tolist()
print("first child of seed 7       ", child)
assert child != run
PY
