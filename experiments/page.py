"""The page of results: one table a data set, made from result files alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from rich.console import Console

from experiments import cross_domain
from metalearn.config.choices import MethodName
from metalearn.config.groups import normalised
from metalearn.files import write_atomically
from metalearn.methods.overrides import passes
from metalearn.methods.presets import preset
from metalearn.report.tables import MIB, Rows, percent

COLUMNS: Final = [
    "method",
    "accuracy",
    "each seed",
    "passes a step",
    "step (MiB)",
    "seconds",
    "error of the hypergradient",
    "commit",
]
METHODS: Final[tuple[MethodName, ...]] = (
    "memory-reduced",
    "memory-reduced-exact",
    "itd-bio",
    "anil",
    "maml-learn2learn",
)
"""Methods of a comparison."""


OTHER_DOMAINS: Final = "cross-domain/study.json"
"""Record of runs tested on other data, below the folder of results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A part of the page.

    Attributes:
        title: of the data set.
        files: pattern of the result files of runs, below the folder of results.
        command: writes them.
        prepare: makes the data set of files that a user brings; empty if none are needed.
        needed: what a run lacks here.
        notes: lines below the table.
    """

    title: str
    files: str
    command: str
    prepare: str = ""
    needed: str = "files"
    notes: tuple[str, ...] = ()


DATA_SETS: Final = (
    DataSet(
        title="Omniglot",
        files="omniglot-20way-1shot/result.json",
        command="python -m experiments omniglot",
        prepare="metalearn prepare omniglot --download",
        notes=("5 ways: the same weights, tested on other episodes",),
    ),
    DataSet(
        title="CIFAR-FS",
        files="cifar-fs-5way-5shot/*/result.json",
        command="python -m experiments cifar-fs",
        prepare="metalearn prepare cifar-fs --download",
        notes=("partial: 250 real images of 600 a class; not comparable with published numbers",),
    ),
    DataSet(
        title="FC100",
        files="fc100-5way-5shot/*/result.json",
        command="python -m experiments fc100",
        prepare="metalearn prepare fc100 --download",
        needed="an hour of a core",
    ),
    DataSet(
        title="miniImageNet",
        files="miniimagenet-5way-5shot/*/result.json",
        command="python -m experiments miniimagenet",
        prepare="metalearn prepare miniimagenet --source FILES",
    ),
    DataSet(
        title="tieredImageNet",
        files="tieredimagenet-5way-5shot/*/result.json",
        command="python -m experiments tieredimagenet",
        prepare="metalearn prepare tieredimagenet --source FILES",
    ),
    DataSet(
        title="Glyphs (built in)",
        files="glyphs-5way-1shot/*.json",
        command="make train",
        notes=("memory-reduced: at learning rate 0.004 with schedule cosine",),
    ),
)


def rows(part: DataSet, results: Path) -> Rows:
    """The table of a data set; of one that was not run, a row a method that says so."""
    files = sorted(results.glob(part.files))
    if not files:
        return Rows(
            title=f"5-way 5-shot; `{part.prepare}`, then `{part.command}`",
            columns=COLUMNS,
            rows=[
                [name, f"not run here: {part.needed} needed", *["–"] * (len(COLUMNS) - 2)]
                for name in METHODS
            ],
            notes=list(part.notes),
        )
    runs = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    methods: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path, run in sorted(runs, key=lambda found: found[1]["seed"]):
        methods.setdefault(run["method"], []).append((path, run))
    lines = [_row(name, own) for name, own in methods.items()]
    first = runs[0][1]
    for path in sorted(files[0].parent.glob("*way-*shot.json")):
        lines.append(_fewer(json.loads(path.read_text(encoding="utf-8"))))
    return Rows(
        title=f"{_protocol(first['protocol'])}, {first['backbone']}, "
        f"{normalised(first['normalisation'])}; `{part.command}`",
        columns=COLUMNS,
        rows=lines,
        notes=list(part.notes),
    )


def _protocol(protocol: dict[str, Any]) -> str:
    return (
        f"{protocol['data']}, {protocol['way']}-way {protocol['shot']}-shot, {protocol['query']} "
        f"queries per class, {protocol['episodes']} {protocol['split']} episodes"
    )


def _row(name: str, own: Sequence[tuple[Path, dict[str, Any]]]) -> list[str]:
    runs = [run for _, run in own]
    taken = passes(preset(name).method)
    errors = [each for path, _ in own for each in _errors(path.with_name("metrics.jsonl"))]
    commits = dict.fromkeys(run["commit"][:7] for run in runs)
    return [
        name,
        percent(mean(r["accuracy"] for r in runs), mean(r["interval"] for r in runs)),
        ", ".join(f"{100 * run['accuracy']:.2f}" for run in runs),
        "–" if taken is None else str(taken),
        f"{runs[0]['step_bytes'] / MIB:.1f}",
        f"{median(run['seconds'] for run in runs):,.0f}",
        f"{median(errors):.2g}" if errors else "–",
        ", ".join(f"`{commit}`" for commit in commits),
    ]


def _fewer(record: dict[str, Any]) -> list[str]:
    (point,) = record["points"]
    accuracy = percent(point["accuracy"], point["interval"])
    way = record["protocol"]["way"]
    cells = [f"{record['method']}, {way} ways", accuracy, f"{100 * point['accuracy']:.2f}"]
    return [*cells, *["–"] * (len(COLUMNS) - 4), f"`{record['commit'][:7]}`"]


def _errors(metrics: Path) -> list[float]:
    if not metrics.exists():
        return []
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [line["hypergradient_error"] for line in lines if "hypergradient_error" in line]


def page(results: Path) -> str:
    """The page."""
    parts = [
        "# Results\n\n"
        "One table a data set, made from the files in `results/` by `python -m experiments "
        "results`; the same command shows what a\nuser has run. What becomes of the paper's claims "
        "is said in [the paper's experiments](experiments.md), and how old each\nfile is in "
        "[result files and their age](ages.md).\n\n"
        "Accuracy is the mean over seeds in %, ± half a 95 % interval of one seed over its "
        "episodes. Passes are those of the backbone\nin an upper step, forward and back; a step's "
        "memory is the peak of live tensor bytes; seconds are of the whole run, median\nover the "
        "seeds, on a CPU that other work shared. The error of the hypergradient is |d − d\\*| / "
        "|d\\*|, the median over validations\nand seeds, where it was measured.\n"
    ]
    for part in DATA_SETS:
        found = rows(part, results)
        body = found.markdown() if found.notes else f"{found.markdown().strip()}\n"
        parts.append(f"## {part.title}\n\n{body}")
    if (results / OTHER_DOMAINS).exists():
        record = json.loads((results / OTHER_DOMAINS).read_text(encoding="utf-8"))
        found = cross_domain.table(record)
        parts.append(
            "## Other domains\n\n"
            "Runs tested on the data set that they were not trained on, beside their own; "
            f"`python -m experiments cross-domain`. {found.markdown()}"
        )
    return "\n".join(parts)


def write(results: Path, path: Path, *, console: Console) -> None:
    """Print the tables and write the page."""
    for part in DATA_SETS:
        rows(part, results).show(console)
    write_atomically(path, page(results).encode())
