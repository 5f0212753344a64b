#!/usr/bin/env bash
# A test of hypothesis that exceeds pytest-timeout's limit is not ended: the failure is caught, and more examples run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "hypothesis==6.170.15" "pytest==9.2.0" "pytest-timeout==2.4.0"
cat > "$folder/test_slow.py" <<'PY'
import time

from hypothesis import given, settings
from hypothesis import strategies as st


def slow(name):
    began = time.monotonic()
    try:
        time.sleep(4)
    finally:
        with open(name, "a") as file:
            file.write(f"{time.monotonic() - began:.1f}\n")


@settings(deadline=None, database=None, derandomize=True)
@given(st.integers(0, 3))
def test_drawn(number):
    slow("drawn")


def test_plain():
    slow("plain")
PY
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import platform
import subprocess
import sys
from importlib.metadata import version

print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in ("hypothesis", "pytest", "pytest-timeout")))
LIMIT = 1


def seconds(name):
    command = [sys.executable, "-m", "pytest", "-q", f"--timeout={LIMIT}", "--timeout-method=signal"]
    done = subprocess.run([*command, f"test_slow.py::test_{name}"], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Timeout (>1.0s) from pytest-timeout" in done.stdout
    return [float(line) for line in open(name)]


plain, drawn = seconds("plain"), seconds("drawn")
print(f"limit {LIMIT} s: the plain test slept {plain} s, the drawn one {drawn} s")
assert len(plain) == 1 and plain[0] < 4
assert len(drawn) > 1 and all(seconds >= 4 for seconds in drawn[1:])
PY
