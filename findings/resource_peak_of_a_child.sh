#!/usr/bin/env bash
# The peak memory of a new process is at least that of the process that started it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile "psutil==7.2.2"
"$folder/venv/bin/python" - <<'PY'
import platform
import subprocess
import sys

import psutil

print("Python", platform.python_version(), "psutil", psutil.__version__, platform.system())
ASK = """
import resource, psutil
own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
mark = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1]
print(own, int(mark) // 1024, psutil.Process().memory_info().rss // 2**20)
"""


def child():
    """What a new interpreter says in MiB: ru_maxrss, the kernel's high-water mark, and now."""
    answer = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    return tuple(map(int, answer.stdout.split()))


before = child()
held = bytearray(800 * 2**20)
during = child()
print(f"parent small: ru_maxrss {before[0]} MiB, VmHWM {before[1]} MiB, resident now {before[2]} MiB")
print(f"parent of 800 MiB: ru_maxrss {during[0]} MiB, VmHWM {during[1]} MiB, resident now {during[2]} MiB")
assert before[0] < 100 and during[0] >= 800
assert during[1] < 100 and during[2] < 100
PY
