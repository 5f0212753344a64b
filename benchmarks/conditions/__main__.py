"""Conditions beside other libraries: value, error, time, and what is said where none exists.

    python -m benchmarks.conditions --out benchmarks/results/conditions.json

Quadratic programmes beside cvxpylayers, qpth and jaxopt (programs.py); lasso and elastic net along
a path beside scikit-learn, sparho and jaxopt (sparse.py); an equilibrium layer as a fixed point
beside torchdeq, torchopt and jaxopt, as a root beside optimistix (equilibria.py); and points where
no derivative exists (degenerate.py). All are installed, pinned, in one temporary environment, and
take turns in one process on one thread: what counts is the median of each one's ratio to this
library within a round. A ratio says something only beside its errors, which are relative to exact
answers. docs/peers.md shows the file; ``--page`` writes its tables anew. Needs the package
index.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.behaviour.environments import PEERS, TORCH, installed, ran
from benchmarks.conditions.page import PAGE, filled
from benchmarks.provenance import provenance, write

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "benchmarks" / "results" / "conditions.json"
_NAMES = ("torchopt", "jaxopt", "optimistix", "torchdeq", "cvxpylayers")
PACKAGES = (
    *dict.fromkeys(package for name in _NAMES for package in (*TORCH, *PEERS[name].packages)),
    "jaxtyping==0.3.11",
    "scikit-learn==1.9.1",
    "sparho==0.2.0",
)
# what these ask for excludes this torch, or is there already
ALONE = (*(package for name in _NAMES for package in PEERS[name].alone), "qpth==0.0.18")
# one thread for everybody
THREADS = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result file goes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--page", action="store_true", help="write the page's tables from the file")
    parser.add_argument("--keep", type=Path, help="a folder for the environment, used if there")
    asked = parser.parse_args()
    if asked.page:
        results = json.loads(asked.out.read_text(encoding="utf-8"))
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    torch.set_num_threads(1)  # as the comparison's own process does
    found: dict[str, Any] = {"provenance": provenance()}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (asked.keep or Path(temporary)) / "conditions"
        python, failed = installed(folder, PACKAGES, ALONE)
        if failed is not None:
            sys.exit(f"the environment could not be made: {failed}")
        command = (python, "-m", "benchmarks.conditions.measured", "--rounds", str(asked.rounds))
        output, failed = ran(command, ROOT, **THREADS, PYTHONPATH=str(ROOT))
    if failed is not None:
        sys.exit(f"the comparison failed: {failed}")
    found |= json.loads(output.splitlines()[-1])
    write(asked.out, found)


if __name__ == "__main__":
    main()
