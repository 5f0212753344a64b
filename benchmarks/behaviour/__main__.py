"""Answers of other libraries and this one in the same eight situations.

    python -m benchmarks.behaviour --out benchmarks/results/behaviour.json

Each peer is installed, pinned, in a temporary environment of its own (environments.py), and runs
``with_NAME.py``: the cases of problems.py and its column of calls.toml; and its column of
beyond.toml, if it has one there. The page
docs/coming-from.md shows the file; ``--page`` writes its tables anew. Needs the package index, and
GitHub for hypertorch, unless ``--hypertorch FOLDER`` names a copy of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.behaviour.environments import PEERS, answers
from benchmarks.behaviour.page import PAGE, filled
from benchmarks.provenance import provenance, write

RESULT = Path(__file__).parents[1] / "results" / "behaviour.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result file goes")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--hypertorch", help="a local copy for pip, in place of GitHub's")
    parser.add_argument("--page", action="store_true", help="write the page's tables from the file")
    parser.add_argument("--keep", type=Path, help="a folder for environments, used again if there")
    asked = parser.parse_args()
    if asked.page:
        results = json.loads(asked.out.read_text(encoding="utf-8"))
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    found: dict[str, Any] = {"provenance": provenance(), "libraries": {"hypergrad": _ours()}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        for name in asked.peers:
            given = asked.hypertorch if name == "hypertorch" else None
            found["libraries"][name] = answers(name, folder, given)
            print(f"{name}: {found['libraries'][name].get('failed', 'answered')}", flush=True)
    write(asked.out, found)


def _ours() -> dict[str, Any]:
    """This library's record, from this environment."""
    record: dict[str, Any] = {}
    for words in (["with_hypergrad"], ["beyond", "hypergrad"]):
        command = [sys.executable, "-m", f"benchmarks.behaviour.{words[0]}", *words[1:]]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
        record = {**json.loads(ended.stdout.splitlines()[-1]), **record}
    return record


if __name__ == "__main__":
    main()
