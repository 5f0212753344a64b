"""The page of results: one table a data set, made from result files alone."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from rich.console import Console

from experiments import cross_domain
from experiments.work import work
from metalearn.config.choices import MethodName
from metalearn.config.groups import normalised
from metalearn.config.train import TrainConfig, from_json
from metalearn.files import write_atomically
from metalearn.methods.overrides import passes
from metalearn.methods.presets import preset
from metalearn.report.tables import MIB, Rows, percent
from metalearn.runs.folder import CONFIG

COLUMNS: Final = [
    "method",
    "accuracy",
    "each seed",
    "passes a step (work, TFLOP)",
    "step (MiB)",
    "seconds",
    "error of the hypergradient",
    "commit",
]
TERA: Final = 1e12
FOLDER: Final = "figures"
FIGURES: Final = {
    "accuracy.png": "Validation accuracy against upper steps and against seconds",
    "memory.png": "Peak of a step's memory against the lower steps K",
    "hypergradient.png": "Error of the hypergradient over training, and its certificate",
}
"""Figures of a comparison; the first two are Figures 1 and 2 of the paper."""
METHODS: Final[tuple[MethodName, ...]] = (
    "memory-reduced",
    "memory-reduced-exact",
    "itd-bio",
    "anil",
    "maml-learn2learn",
    "maml",
    "imaml",
    "reptile",
    "r2d2",
    "protonet",
)
"""Methods of a comparison."""


_COMPARED: Final = "*/result.json"  # in the folder of a comparison: one folder a run
OTHER_DOMAINS: Final = "cross-domain/study.json"
"""Record of runs tested on other data, below the folder of results."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSet:
    """A part of the page.

    Attributes:
        title: title of the data set.
        folders: pattern of the folders of results, one for each protocol and budget.
        files: pattern of the result files of runs in such a folder.
        command: writes them.
        prepare: makes the data set of files that a user brings; empty if none are needed.
        needed: reason why a run is missing here.
        partial: note below a table whose images are not all of the data set's.
        notes: lines below each table.
    """

    title: str
    folders: str
    files: str = _COMPARED
    command: str
    prepare: str = ""
    needed: str = "files"
    partial: str = ""
    notes: tuple[str, ...] = ()


_CIFAR: Final = "partial: 250 real images of 600 a class; not comparable with published numbers"
_TINY: Final = (
    "partial: the classes of {} that tiny-imagenet-200 has too, 60 real images of each, made 32 "
    "pixels wide of 64; an ImageNet-like set, not comparable with published numbers"
)

DATA_SETS: Final = (
    DataSet(
        title="Omniglot",
        folders="omniglot-*",
        files="result.json",
        command="python -m experiments omniglot",
        prepare="metalearn prepare omniglot --download",
        notes=("5 ways: the same weights, tested on other episodes",),
    ),
    DataSet(
        title="CIFAR-FS",
        folders="cifar-fs-*",
        command="python -m experiments cifar-fs",
        prepare="metalearn prepare cifar-fs --download",
        needed="hours of a core",
        partial=_CIFAR,
    ),
    DataSet(
        title="FC100",
        folders="fc100-*",
        command="python -m experiments fc100",
        prepare="metalearn prepare fc100 --download",
        needed="hours of a core",
        partial=_CIFAR,
    ),
    DataSet(
        title="miniImageNet",
        folders="miniimagenet-*",
        command="python -m experiments miniimagenet",
        prepare="metalearn prepare miniimagenet --source FILES",
        partial=_TINY.format("miniImageNet"),
    ),
    DataSet(
        title="tieredImageNet",
        folders="tieredimagenet-*",
        command="python -m experiments tieredimagenet",
        prepare="metalearn prepare tieredimagenet --source FILES",
        partial=_TINY.format("tieredImageNet"),
    ),
    DataSet(
        title="Glyphs (built in)",
        folders="glyphs-*",
        files="*.json",
        command="make train",
        notes=("memory-reduced: at learning rate 0.004 with schedule cosine",),
    ),
)


def tables(part: DataSet, results: Path) -> list[Rows]:
    """The tables of a data set, one a folder; if there is none, one that says what is missing."""
    found = [
        folder for folder in sorted(results.glob(part.folders)) if any(folder.glob(part.files))
    ]
    if found:
        return [_table(part, folder) for folder in found]
    return [
        Rows(
            title=f"5-way 5-shot; `{part.prepare}`, then `{part.command}`",
            columns=COLUMNS,
            rows=[_not_run(METHODS, part.needed)],
            notes=list(part.notes),
        )
    ]


def _table(part: DataSet, folder: Path) -> Rows:
    files = sorted(folder.glob(part.files))
    runs = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    methods: dict[str, list[tuple[Path, dict[str, Any]]]] = {}
    for path, run in sorted(runs, key=lambda found: found[1]["seed"]):
        methods.setdefault(run["method"], []).append((path, run))
    lines = [_row(name, own) for name, own in methods.items()]
    missing = [name for name in METHODS if name not in methods]
    if part.files == _COMPARED and missing:
        lines.append(_not_run(missing, part.needed))
    for path in sorted(folder.glob("*way-*shot.json")):
        lines.append(_fewer(json.loads(path.read_text(encoding="utf-8"))))
    first = runs[0][1]
    partial = [part.partial] if "partial" in first["protocol"]["data"] else []
    return Rows(
        title=f"{_protocol(first['protocol'])}, {_budget(files[0])}{first['backbone']}, "
        f"{normalised(first['normalisation'])}; "
        f"`{part.command}{_asked(folder) if part.files == _COMPARED else ''}`",
        columns=COLUMNS,
        rows=lines,
        notes=[*partial, *part.notes],
    )


def _not_run(names: Sequence[str], needed: str) -> list[str]:
    """One row for all of them."""
    return [", ".join(names), f"not run here: {needed} needed", *["–"] * (len(COLUMNS) - 2)]


def _budget(result: Path) -> str:
    """Upper steps and tasks, of a run whose settings were kept."""
    config = _settings(result)
    if config is None:
        return ""
    steps, preset = config.optimisation.steps, config.preset()
    tasks = "a task" if preset.tasks_per_step == 1 else f"{preset.tasks_per_step} tasks"
    return f"{steps:,} steps of {tasks}, "


def _settings(result: Path) -> TrainConfig | None:
    """Settings of a run, if they were kept beside its result."""
    kept = result.with_name(CONFIG)
    return from_json(json.loads(kept.read_text(encoding="utf-8"))) if kept.exists() else None


def _asked(folder: Path) -> str:
    """Options of the command, which the folder of a comparison is named after."""
    found = re.fullmatch(r".*-5way-(\d+)shot(?:-(\d+)steps)?", folder.name)
    if found is None:
        return ""
    shot = "" if found[1] == "5" else f" --shot {found[1]}"
    return shot + ("" if found[2] is None else f" --steps {found[2]}")


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
        "–" if taken is None else f"{taken}{_work(*own[0])}",
        f"{runs[0]['step_bytes'] / MIB:.1f}",
        f"{median(run['seconds'] for run in runs):,.0f}",
        f"{median(errors):.2g}" if errors else "–",
        ", ".join(f"`{commit}`" for commit in commits),
    ]


def _work(result: Path, run: dict[str, Any]) -> str:
    """Work of a run whose settings were kept, in brackets."""
    config = _settings(result)
    found = None if config is None else work(config, run["protocol"]["data"])
    return "" if found is None else f" ({found / TERA:.3g})"


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
        "episodes. Passes are those of the backbone\nin an upper step, forward and back. Work is "
        "what these passes compute at least in all of a run's upper steps, in 10¹² "
        "floating-point\noperations: no GPU was at hand, and one takes at least the work over its "
        "rate. A step's memory is the peak of live\ntensor bytes; seconds are of the whole run, "
        "median over the seeds, on a CPU that other work shared. The error of the\nhypergradient "
        "is |d − d\\*| / |d\\*|, the median over validations and seeds, where it was measured. "
        "Below the tables of a\ncomparison are its figures: the first two show what the paper's "
        "Figures 1 and 2 do, the third is ours.\n\n"
        "Not every accuracy can be held against the paper's. A table whose data are *partial* "
        "compares its methods with each other only.\nSo do the glyphs, which are drawn here, and "
        "the short runs on other domains.\n"
    ]
    for part in DATA_SETS:
        bodies = [found.markdown().strip() + "\n" for found in tables(part, results)]
        parts.append("\n".join([f"## {part.title}\n", *bodies, *_shown(part, results)]))
    if (results / OTHER_DOMAINS).exists():
        record = json.loads((results / OTHER_DOMAINS).read_text(encoding="utf-8"))
        found = cross_domain.table(record)
        parts.append(
            "## Other domains\n\n"
            "Runs tested on the data set that they were not trained on, beside their own; "
            f"`python -m experiments cross-domain`. {found.markdown()}"
        )
    return "\n".join(parts)


def pictures(results: Path) -> dict[str, Path]:
    """The figures among the results, by their names beside the page: FOLDER-FIGURE.png."""
    return {f"{path.parent.name}-{path.name}": path for path in sorted(results.glob("*/*.png"))}


def _shown(part: DataSet, results: Path) -> list[str]:
    """The figures of a data set, below its tables."""
    there = pictures(results)
    names = [
        (f"{folder.name}-{figure}", words)
        for folder in sorted(results.glob(part.folders))
        for figure, words in FIGURES.items()
    ]
    return [f"![{words}]({FOLDER}/{name})\n" for name, words in names if name in there]


def write(results: Path, path: Path, *, console: Console) -> None:
    """Print the tables, and write the page with its figures beside it."""
    folder = path.parent / FOLDER
    folder.mkdir(exist_ok=True)
    for name, picture in pictures(results).items():
        write_atomically(folder / name, picture.read_bytes())
    for part in DATA_SETS:
        for found in tables(part, results):
            found.show(console)
    write_atomically(path, page(results).encode())
