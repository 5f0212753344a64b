"""Run an experiment from its settings in this folder, and keep its results.

- `omniglot` trains for 20-way 1-shot, tests 20-way and 5-way, and on the training's characters;
- `omniglot-search` compares settings for it by validation;
- `drawings` compares two ways of resizing Omniglot's drawings, given as `--source`;
- `cifar-fs`, `fc100`, `miniimagenet`, `tieredimagenet` compare methods from several seeds;
- `residual`, `residual-cifar-fs` relate accuracy to the error of the hypergradient;
- `batches` relates accuracy and variance of the hypergradient to the tasks of a step;
- `plan` plans K and N for the kept runs of memory-reduced;
- `normalisation` tests single pictures of runs with each normalisation;
- `cross-domain` tests runs on glyphs with Omniglot, and the reverse;
- `results` writes the page of all results.

To continue an experiment that was stopped, give the same command again: finished runs are kept. The
data must be prepared in the cache folder (docs/data.md). A comparison under a small budget is asked
for by `fc100 --steps 200 --seeds 0 --methods memory-reduced protonet`; the same command with more
methods adds theirs.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias, get_args

import tyro
from rich.console import Console

from experiments import (
    batches,
    cross_domain,
    drawings,
    normalisation,
    page,
    planned,
    residual,
)
from experiments.page import METHODS
from experiments.rates import RATES, search
from experiments.search import search as search_settings
from hypergrad.errors import HypergradError
from metalearn.cli.compare import ensure, member
from metalearn.cli.measure import measure
from metalearn.cli.test import test
from metalearn.config.choices import MethodName
from metalearn.config.commands import MeasureConfig, TestConfig
from metalearn.config.groups import unset
from metalearn.config.train import TrainConfig
from metalearn.config.yaml import settings
from metalearn.errors import ConfigError, MetalearnError, Stopped
from metalearn.files import write_atomically
from metalearn.report.collect import collect
from metalearn.report.figures import accuracy_figure, hypergradient_figure, memory_figure
from metalearn.report.tables import Rows, accuracy_table, hypergradient_table, memory_table
from metalearn.runs.folder import CONFIG, EVENTS, METRICS, RESULT, WEIGHTS

Comparison: TypeAlias = Literal["cifar-fs", "fc100", "miniimagenet", "tieredimagenet"]
Other: TypeAlias = Literal[
    "omniglot",
    "omniglot-search",
    "drawings",
    "residual",
    "residual-cifar-fs",
    "batches",
    "plan",
    "normalisation",
    "cross-domain",
    "results",
]

# Files of a run that tables and figures read, and the weights, from which `metalearn test` computes
# the result again.
KEPT: Final = (CONFIG, METRICS, EVENTS, RESULT, WEIGHTS)
SEEDS: Final = (0, 1, 2)
SHOT: Final = 5
LOWER_STEPS: Final = (1, 3, 5, 10, 20)  # MAML's take 0.1 GiB each here


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentConfig:
    """Run an experiment, or continue it.

    Attributes:
        name: Experiment to run, or `results` for the page of all.
        runs: Folder for the runs. Relative, since the runs' settings name it.
        results: Folder for the result files that are kept.
        methods: Methods of a comparison. Others are subtracted from the first in its table.
        seeds: Seeds of a comparison.
        shot: Labelled images of each class, in a comparison's training and test.
        steps: Upper steps of each run of a comparison: with as many tasks in each, the budget that
            all methods share.
        source: Omniglot's two archives, or folders that hold them. For `drawings` only.
    """

    name: Annotated[Comparison | Other, tyro.conf.Positional]
    runs: Path = Path("runs/experiments")
    results: Path = Path("results")
    methods: tuple[MethodName, ...] = METHODS
    seeds: tuple[int, ...] = SEEDS
    shot: int = SHOT
    steps: Annotated[int | None, unset("INT", "those of the settings")] = None
    source: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        if self.name in get_args(Comparison):
            return
        for field in dataclasses.fields(self):
            own = field.name in ("methods", "seeds", "shot", "steps")
            if own and getattr(self, field.name) != field.default:
                raise ConfigError(
                    f"{field.name} was given with {self.name}, which compares no methods: leave "
                    f"it out, or choose one of {', '.join(get_args(Comparison))}."
                )


def named(name: str) -> TrainConfig:
    """Settings in a file of this folder.

    Raises:
        ConfigError: the file names an unknown setting.
    """
    with resources.as_file(resources.files(__package__).joinpath(f"{name}.yaml")) as path:
        return settings(path)


def omniglot(
    config: ExperimentConfig, asked: TrainConfig, *, ways: int = 5, console: Console
) -> None:
    """Train and test under these settings, then with fewer ways and on the training's classes.

    Raises:
        MetalearnError: a run can't be made.
        Stopped: by a signal; the same command goes on.
    """
    name = "omniglot-20way-1shot"
    run, results = config.runs / name, config.results / name
    ensure(asked.replace(run=run), console=console)
    keep(run, results)
    fewer = TestConfig(run=run, out=results / f"{ways}way-1shot.json", way=ways)
    test(fewer, console=console)
    seen = TestConfig(run=run, out=results / "training-characters.json", split="train")
    test(seen, console=console)


def omniglot_search(config: ExperimentConfig, asked: TrainConfig, *, console: Console) -> None:
    """Compare settings for Omniglot by validation, after few steps, and keep the table.

    Raises:
        MetalearnError: a run can't be made.
        Stopped: by a signal; the same command goes on.
    """
    rows = search_settings(config.runs / "omniglot-search", asked, console=console)
    rows.show(console)
    config.results.mkdir(parents=True, exist_ok=True)
    write_atomically(config.results / "omniglot-search.md", rows.markdown().encode())


def drawn_anew(config: ExperimentConfig, asked: TrainConfig, *, console: Console) -> None:
    """Compare ways of resizing Omniglot's drawings by validation, and keep the table.

    Raises:
        MetalearnError: the drawings can't be read, or a run can't be made.
        Stopped: by a signal; the same command goes on.
    """
    folder = config.runs / "drawings"
    roots = drawings.prepared(folder, config.source, console=console)
    short = asked.replace(**drawings.SHORT)
    rows = search_settings(folder, short, variants=drawings.variants(roots), console=console)
    rows.show(console)
    config.results.mkdir(parents=True, exist_ok=True)
    write_atomically(config.results / "drawings.md", rows.markdown().encode())


def comparison(
    config: ExperimentConfig,
    asked: TrainConfig,
    *,
    rates: tuple[float, ...] = RATES,
    console: Console,
) -> None:
    """Compare the methods on a data set from the seeds, each at the rate that suits it.

    Keeps results, memory, tables and figures. The results of another budget have another folder.

    Raises:
        MetalearnError: a run can't be made.
        Stopped: by a signal; the same command goes on.
    """
    methods, seeds = config.methods, config.seeds
    name = f"{asked.data.name}-{asked.test.way}way-{asked.test.shot}shot"
    if config.steps is not None:
        name += f"-{config.steps}steps"
    out = config.results / name
    chosen, searched = search(
        config.runs / f"{name}-rates",
        asked,
        methods=methods,
        seeds=seeds,
        rates=rates,
        console=console,
    )
    for seed in seeds:
        for method in methods:
            own = asked.replace(learning_rate=chosen[method])
            ensure(member(config.runs / name, own, method, seed), console=console)
            keep(config.runs / name / f"{method}-{seed}", out / f"{method}-{seed}")
    measured = measure(
        MeasureConfig(out=out / "memory.json", methods=methods, k=LOWER_STEPS, settings=asked),
        console=console,
    )
    runs = collect(out)
    tables: dict[str, Rows] = {
        "rates": searched,
        "accuracy": accuracy_table(runs, reference=methods[0]),
        "hypergradient": hypergradient_table(runs),
        "memory": memory_table(measured),
    }
    for title, rows in tables.items():
        rows.show(console)
        write_atomically(out / f"{title}.md", rows.markdown().encode())
    accuracy_figure(runs, out / "accuracy.png")
    hypergradient_figure(runs, out / "hypergradient.png")
    memory_figure(measured, out / "memory.png")


def compared(config: ExperimentConfig) -> TrainConfig:
    """Settings that the runs of a comparison share: one protocol, and the budget that is asked for.

    Raises:
        ConfigError: the options can't work together.
    """
    protocol = named("cifar-fs-5way-5shot")
    train, test = (
        dataclasses.replace(shape, shot=config.shot) for shape in (protocol.train, protocol.test)
    )
    asked = protocol.replace(data=config.name, train=train, test=test)
    if config.steps is None:
        return asked
    halves = max(1, config.steps // 2)
    return asked.replace(steps=config.steps, validate_every=halves, checkpoint_every=halves)


def keep(run: Path, results: Path) -> None:
    """Copy the files of a finished run that its result can be read and computed again from."""
    results.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        shutil.copyfile(run / name, results / name)


def run(config: ExperimentConfig, *, console: Console) -> None:
    """Run an experiment under its own settings.

    Raises:
        MetalearnError: the data isn't prepared, or a run can't be made.
        Stopped: by a signal; the same command goes on.
    """
    if config.name == "omniglot":
        omniglot(config, named("omniglot-20way-1shot"), console=console)
    elif config.name == "omniglot-search":
        omniglot_search(config, named("omniglot-20way-1shot"), console=console)
    elif config.name == "drawings":
        drawn_anew(config, named("omniglot-20way-1shot"), console=console)
    elif config.name == "results":
        page.write(config.results, Path("docs/results.md"), console=console)
    elif config.name in ("residual", "residual-cifar-fs"):
        runs = config.runs / config.name
        points, origin = residual.study(runs, named(config.name), console=console)
        residual.write(points, origin, config.results / config.name, console=console)
    elif config.name == "plan":
        kept = sorted(config.results.glob(f"*/memory-reduced*-0/{WEIGHTS}"))
        planned.write([path.parent for path in kept], config.results / "plan", console=console)
    elif config.name == "batches":
        runs = config.runs / "batches"
        # validated once: the hypergradient's error is not asked for
        asked = named("residual").replace(hypergradient_error=False)
        trained, origin = batches.study(runs, asked, console=console)
        batches.write(trained, origin, config.results / "batches", console=console)
    elif config.name in ("normalisation", "cross-domain"):
        glyphs, drawn, photographs = (
            normalisation.short(name, named(name) if name != "glyphs" else TrainConfig())
            for name in normalisation.SHORT
        )
        runs, out = config.runs / "normalisation", config.results / config.name
        if config.name == "normalisation":
            found = normalisation.study(runs, (glyphs, drawn, photographs), console=console)
            normalisation.write(found, out, console=console)
        else:  # the same runs
            found = cross_domain.study(runs, (glyphs, drawn), console=console)
            cross_domain.write(found, out, console=console)
    else:  # one protocol for all, which cifar-fs has the name of
        comparison(config, compared(config), console=console)


def _say(message: str) -> None:
    Console(stderr=True).print(message, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        asked = tyro.cli(ExperimentConfig, prog="python -m experiments", description=__doc__)
        run(asked, console=Console())
    except Stopped as stopped:
        _say(f"stopped: {stopped}, or this command again.")
        sys.exit(stopped.status)
    except (MetalearnError, HypergradError, OSError) as error:
        _say(f"{type(error).__name__}: {error}")
        sys.exit(1)
