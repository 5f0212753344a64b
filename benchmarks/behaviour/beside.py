"""The ten commonest calls of other libraries beside ours, on one problem: do the values agree?

    python -m benchmarks.behaviour.beside --out benchmarks/results/beside.json

Runs both columns of beside.toml, theirs in the environments of environments.py, and writes the
values. The page docs/coming-from.md shows how far they are apart; ``--page`` writes its tables.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks.behaviour.asked import ask
from benchmarks.behaviour.environments import PEERS, environment, ran
from benchmarks.behaviour.page import PAGE, code

ROWS: Final = Path(__file__).with_name("beside.toml")
OUT: Final = Path(__file__).parents[1] / "results" / "beside.json"
SPOT: Final = re.compile(r"<!-- beside:(?P<what>\w+) -->\n.*?<!-- end -->", flags=re.DOTALL)
HERE: Final = """
import torch
from hypergrad import *
from hypergrad.conditions import Constrained, FixedPoint, NonNegative
from hypergrad.objectives import call
from hypergrad.solvers import Anderson, ProximalGradient

i = torch.arange(8.0, dtype=torch.float64)
x, y = torch.stack([i.cos(), (2 * i).sin()], dim=1), i.sin()
theta = torch.tensor([-1.0, 0.5], dtype=torch.float64, requires_grad=True)
start = torch.zeros(2, dtype=torch.float64)
def lower(theta, phi):
    return (x @ phi - y).square().mean() + (theta.exp() * phi.square()).sum()
def slope(theta, phi):
    return 2 * x.T @ (x @ phi - y) / 8 + 2 * theta.exp() * phi
def solve(theta):
    return torch.linalg.solve(x.T @ x + 8 * theta.exp().diag(), x.T @ y).detach()
def upper(theta, phi):
    return phi.square().sum()
problem = Bilevel(upper=upper, lower=lower)
def through(phi, of=theta):
    return torch.autograd.grad(phi.square().sum(), of)[0]
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.phi = torch.nn.Parameter(start.clone())
    def forward(self, theta):
        return lower(theta, self.phi)
net = Net()
"""

Record = dict[str, Any]


def tables() -> Record:
    """Packages, setup and rows of each library."""
    with ROWS.open("rb") as file:
        return tomllib.load(file)


def theirs(library: str) -> list[Record]:
    """The library's answers, in its own environment."""
    table = tables()[library]
    return [ask(partial(value, table["setup"], row[0])) for row in table["rows"]]


def ours(library: str) -> list[Record]:
    """This library's answers."""
    return [ask(partial(value, HERE, row[1])) for row in tables()[library]["rows"]]


def value(setup: str, code: str) -> list[float | None]:
    """Run a row after its setup; the numbers in the value of its last expression."""
    names: dict[str, object] = {"__name__": "__main__"}
    exec(setup, names)
    *before, last = ast.parse(code).body
    assert isinstance(last, ast.Expr), code
    exec(compile(ast.Module(before, type_ignores=[]), "<row>", "exec"), names)
    return list(numbers(eval(compile(ast.Expression(last.value), "<row>", "eval"), names)))


def numbers(found: Any) -> Iterator[float | None]:
    """Entries of tensors, arrays, or lists of them."""
    if isinstance(found, list | tuple):
        for part in found:
            yield from numbers(part)
    elif found is None:
        yield None
    else:
        flat = (found.detach() if hasattr(found, "detach") else found).reshape(-1)
        yield from (float(each) for each in flat.tolist())


def apart(one: list[float | None], other: list[float | None]) -> float | None:
    """The largest difference over the largest entry; None where there is none to compare."""
    known = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if len(known) != len(one):
        return None
    size = max(abs(b) for _, b in known)
    return max(abs(a - b) for a, b in known) / (size or 1.0)


def table(library: str, results: Record) -> str:
    """The table of one library: both calls and how far their values are apart."""
    rows = [f"| {PEERS[library].title} | here | apart by |", "| --- | --- | --- |"]
    pairs = zip(tables()[library]["rows"], results["libraries"][library]["rows"], strict=True)
    for (their_code, our_code, *why), found in pairs:
        rows.append(f"| {code(their_code)} | {code(our_code)} | {_verdict(found, why)} |")
    return "\n".join(rows)


def _verdict(found: Record, why: list[str]) -> str:
    if found["theirs"]["raised"]:
        return f"it raises `{found['theirs']['raised']['kind']}`"
    difference = apart(found["theirs"]["values"], found["here"]["values"])
    difference_text = "–" if difference is None else f"{difference:.0e}" if difference else "0"
    return f"{difference_text}: {why[0]}" if why else difference_text


def filled(text: str, results: Record) -> str:
    """The page with every marked spot written anew."""
    return SPOT.sub(
        lambda match: (
            f"<!-- beside:{match['what']} -->\n{table(match['what'], results)}\n<!-- end -->"
        ),
        text,
    )


def main() -> None:
    """Ask all libraries, or write the page's tables."""
    from benchmarks.provenance import provenance, write  # torch, which jaxopt's environment lacks

    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--out", type=Path, default=OUT, help="where the result file goes")
    parser.add_argument("--hypertorch", help="a local copy for pip, in place of GitHub's")
    parser.add_argument("--page", action="store_true", help="write the page's tables from the file")
    parser.add_argument("--keep", type=Path, help="a folder for environments, used again if there")
    asked = parser.parse_args()
    if asked.page:
        results = json.loads(asked.out.read_text(encoding="utf-8"))
        PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), results), encoding="utf-8")
        return
    found: Record = {"provenance": provenance(), "libraries": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.keep or Path(temporary)
        for name in tables():
            record = _answers(name, folder, asked.hypertorch)
            rows = [
                {"theirs": their, "here": our}
                for their, our in zip(record["rows"], ours(name), strict=True)
            ]
            found["libraries"][name] = {"versions": record["versions"], "rows": rows}
            print(name, [_verdict(row, []) for row in rows], flush=True)
    write(asked.out, found)


def _answers(library: str, folder: Path, hypertorch: str | None) -> Record:
    replaced = hypertorch if library == "hypertorch" else None
    python, view, failed = environment(library, folder, replaced)
    if failed is None:
        words = ("-m", "benchmarks.behaviour.beside", "--library", library)
        output, failed = ran((python, "-W", "ignore", *words), view)
    if failed is not None:
        sys.exit(f"{library}: {failed}")
    record: Record = json.loads(output.splitlines()[-1])
    return record


def _asked(library: str) -> None:
    """Print the record of the library that is installed here."""
    packages = tables()[library]["packages"]
    versions = {name: importlib.metadata.version(name) for name in packages}
    print(json.dumps({"versions": versions, "rows": theirs(library)}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--library"]:
        _asked(sys.argv[2])
    else:
        main()
