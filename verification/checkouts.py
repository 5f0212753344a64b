"""The suite against checkouts that have a bug in them: each must fail, and name the claim.

``python -m verification.checkouts`` writes copies of hypergrad and verification into a temporary
folder, changes the source text of one as a planted bug says, and runs the suite there as anybody
would, restricted to the claim that the bug is assigned to, and without planting anything else.

M13 to M15 are bugs of a sampler, which hypergrad has none of; they stand beside claim C7.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from verification.composed_in_source import COMPOSED
from verification.subjects.bugs import MUTANTS
from verification.subjects.planting import InSource, SourceBug
from verification.suite.model import ALGORITHM
from verification.suite.registry import ENTRIES, KINDS

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Checkout:
    """A bug for a checkout.

    Attributes:
        name: of the bug.
        what: the bug in words.
        changes: of the source text.
        claim: that must notice.
    """

    name: str
    what: str
    changes: tuple[SourceBug, ...]
    claim: str


def checkouts() -> Iterator[Checkout]:
    """Every planted bug that is, or can be written as, a change of hypergrad's source text."""
    assigned = {mutant.name: mutant.assigned for mutant in MUTANTS}
    for kind in KINDS:
        (first, *_) = (entry.name for entry in ENTRIES if entry.kind == kind.name)
        for bug in kind.bugs:
            in_source = bug.subject.bugs if isinstance(bug.subject, InSource) else ()
            if changes := in_source or COMPOSED.get(bug.name, ()):
                claim = assigned[bug.name] if kind.name == ALGORITHM else first
                yield Checkout(bug.name, bug.what, changes, claim)


def apply(bug: SourceBug, root: Path) -> None:
    """Change the source text below this folder.

    Raises:
        ValueError: the text to be replaced is not there exactly once.
    """
    path = root.joinpath(*bug.module.split(".")).with_suffix(".py")
    text = path.read_text(encoding="utf-8")
    if (count := text.count(bug.old)) != 1:
        raise ValueError(f"{bug.module} contains {bug.old!r} {count} times, not once.")
    path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")


def run(checkout: Checkout | None, claim: str) -> tuple[int, str]:
    """Exit status and output of the suite on a copy, with the bug if there is one."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for package in ("hypergrad", "verification"):
            ignore = shutil.ignore_patterns("__pycache__", "results")
            shutil.copytree(ROOT / package, root / package, ignore=ignore)
        if checkout is not None:
            for change in checkout.changes:
                apply(change, root)
        command = [sys.executable, "-m", "verification", "run", "--size", "small"]
        command += ["--claims", claim, "--bugs", "none", "--workers", "1", "--out", "out"]
        # -m puts the working folder first: the copy is what is imported
        environment = os.environ | {"PYTHONPATH": str(root), "COLUMNS": "200"}
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr


def verdict(checkout: Checkout) -> str:
    """Empty if the suite notices; otherwise what it did instead."""
    status, output = run(checkout, checkout.claim)
    if status == 1 and f"FAILS: claim {checkout.claim} fails" in output:
        return ""
    return f"exit status {status}, and {checkout.claim} is not named:\n{output[-2000:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every checkout, or those named; 0 if all are noticed."""
    wanted = set(sys.argv[1:] if arguments is None else arguments)
    chosen = [each for each in checkouts() if not wanted or each.name in wanted]
    if missing := wanted - {each.name for each in chosen}:
        print(f"there is no bug in source text called {sorted(missing)}", file=sys.stderr)
        return 2
    survivors = 0
    with ThreadPoolExecutor(2) as pool:
        for each, missed in zip(chosen, pool.map(verdict, chosen), strict=True):
            said = f"SURVIVES: {missed}" if missed else f"exit status 1, named {each.claim}"
            print(f"{each.name} {each.what}: {said}", flush=True)
            survivors += bool(missed)
    print(f"{len(chosen) - survivors} of {len(chosen)} checkouts with a bug were noticed")
    return 1 if survivors or not chosen else 0


if __name__ == "__main__":
    sys.exit(main())
