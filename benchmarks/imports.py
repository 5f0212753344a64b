"""Modules that an import loads beside torch, and its processor time over that of torch alone.

    python -m benchmarks.imports --out benchmarks/results/imports.json

Each import is made in a process of its own, in turns. Modules are counted that torch has not
loaded already; `import metalearn` is counted after `import hypergrad`. Times are of packages that
were compiled to bytecode before, as those that pip installs are.
"""

from __future__ import annotations

import argparse
import compileall
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.provenance import provenance, write

ROOT: Final = Path(__file__).parents[1]
OUT: Final = Path(__file__).parent / "results" / "imports.json"
LIMIT: Final = 300  # seconds that a process may take
_COUNT: Final = """
import sys
import torch
torchs = len(sys.modules)
import hypergrad
ours = len(sys.modules)
import metalearn
print(ours - torchs, len(sys.modules) - ours)
"""
_TIME: Final = "import time; {}; print(time.process_time())"
CONTENDERS: Final = ("import torch", "import hypergrad", "import metalearn")


def modules(root: Path = ROOT) -> tuple[int, int]:
    """Modules that `import hypergrad` loads beside torch's, and `import metalearn` beside both."""
    ours, theirs = _said(_COUNT, root).split()
    return int(ours), int(theirs)


def seconds(rounds: int) -> dict[str, list[float]]:
    """Processor time of a process that makes one import, in each round."""
    found: dict[str, list[float]] = {statement: [] for statement in CONTENDERS}
    with tempfile.TemporaryDirectory() as folder:
        for package in ("hypergrad", "metalearn"):
            shutil.copytree(ROOT / package, Path(folder) / package)
        compileall.compile_dir(folder, quiet=1)
        for turn in range(rounds):
            for position in range(len(CONTENDERS)):
                statement = CONTENDERS[(position + turn) % len(CONTENDERS)]
                found[statement].append(float(_said(_TIME.format(statement), Path(folder))))
    return found


def _said(code: str, root: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    return done.stdout


def main() -> None:
    """Count, time, and write the result file."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    origin = provenance()
    ours, theirs = modules()
    taken = seconds(asked.rounds)
    shares: dict[str, list[float]] = {}
    for statement in CONTENDERS[1:]:
        pairs = zip(taken[statement], taken[CONTENDERS[0]], strict=True)
        shares[statement] = statistics.quantiles([own / torchs for own, torchs in pairs], n=4)
        low, middle, high = shares[statement]
        print(f"{statement}: {middle:.2f} ({low:.2f} to {high:.2f}) of {CONTENDERS[0]}")
    print(f"modules: {ours} beside torch's, {theirs} more of metalearn")
    found: dict[str, object] = {
        "provenance": origin,
        "rounds": asked.rounds,
        "modules": {"hypergrad": ours, "metalearn": theirs},
        "over_torch": shares,
    }
    write(asked.out, found)


if __name__ == "__main__":
    main()
