#!/usr/bin/env bash
# Python's max over python-flint's enclosures is no bound on what they enclose.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "python-flint==0.9.0"
"$folder/venv/bin/python" - <<'PY'
import functools

import flint
from flint import arb

print("python-flint", flint.__version__)
wide, sharp = arb(5, 10), arb(6)  # somewhere in [-5, 15], and 6
print("max(wide, sharp) =", max(wide, sharp), "  max(sharp, wide) =", max(sharp, wide))
print("wide < sharp:", wide < sharp, "  wide >= sharp:", wide >= sharp)
# A comparison is True where it is certain, so the builtin keeps the first of two that overlap.
assert not wide < sharp and not wide >= sharp
assert max(sharp, wide).overlaps(arb(6)) and not max(sharp, wide).overlaps(arb(14))

errors = [arb(6), arb(5, 10), arb(1)]
bound, true = max(errors), functools.reduce(arb.max, errors)
print("worst of three errors: builtin", bound, "  arb.max", true)
assert bound == arb(6) and true.overlaps(arb(14))

# The same holds for a limit: both of these pass.
assert not arb(5, 10) > arb(6)
assert not arb("nan") > arb(6)
print("'not error > limit' passes for", arb(5, 10), "and for nan, limit 6")
assert not (arb(5, 10) <= arb(6)) and not (arb("nan") <= arb(6))
print("'error <= limit' passes for neither")
PY
