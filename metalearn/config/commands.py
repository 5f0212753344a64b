"""Settings of the commands beside `metalearn train`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from tyro.conf import Positional, arg, subcommand

from metalearn.config.checks import (
    require_at_least,
    require_path,
    require_paths,
    require_positive,
)
from metalearn.config.choices import BudgetKind, DataName, DatasetName, MethodName, Split
from metalearn.config.groups import unset
from metalearn.config.train import TrainConfig
from metalearn.errors import ConfigError

LARGEST_SIDE: Final = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareConfig:
    """Turn a data set, or your own pictures, into the files that training reads.

    `metalearn prepare folders --source DIR --split 0.6 0.2 0.2` prepares pictures that lie in one
    folder for each class. Every file that is not used is written down in remarks.csv beside the
    result. A picture that is there twice is refused.

    Attributes:
        dataset: Data set to prepare. `folders` is for your own pictures.
        source: Folder or archive that holds the files. Several are joined.
        download: Download the files instead. They are kept, and a broken download resumes.
        verify: Prepare nothing. Check that a prepared data set is as it was written.
        root: Folder in which to make the folder DATASET.
        side: Height and width of the images in pixels.
        allow_partial: Accept fewer classes or images than published. The manifest records it.
        split: Own pictures: shares of the classes to train, validate and test with. Each class goes
            to one of the three, whatever splits the source has.
        seed: Number that decides which class --split puts where.
        drop_duplicates: Own pictures: keep the first, where one is several times in a class.
        allow_unused: Own pictures: largest share of them that may stay unused.
    """

    dataset: Annotated[DatasetName, Positional]
    source: tuple[Path, ...] = ()
    download: bool = False
    verify: bool = False
    root: Annotated[Path | None, unset("PATH", "`data` in the cache folder")] = None
    side: Annotated[int | None, unset("INT", "as published; 84 for folders")] = None
    allow_partial: bool = False
    split: Annotated[
        tuple[float, float, float] | None, unset("TRAIN VALIDATION TEST", "the source's")
    ] = None
    seed: int = 0
    drop_duplicates: bool = False
    allow_unused: float = 0.01

    def __post_init__(self) -> None:
        require_paths("source", self.source)
        require_path("root", self.root)
        if bool(self.source) + self.download + self.verify != 1:
            raise ConfigError(
                "give either --source, the folder or archive with the data, or --download, or "
                "--verify."
            )
        if self.side is not None and not 1 <= self.side <= LARGEST_SIDE:
            raise ConfigError(
                f"side was given as {self.side}: it must be from 1 to {LARGEST_SIDE}."
            )
        if self.dataset != "folders" and (self.split is not None or self.drop_duplicates):
            raise ConfigError(
                f"split and drop_duplicates are for folders: {self.dataset} is kept as it was "
                "published, so that results can be compared."
            )
        if self.split is not None and not (
            all(share > 0 for share in self.split) and math.isclose(sum(self.split), 1)
        ):
            raise ConfigError(
                f"split was given as {' '.join(map(str, self.split))}: it must be three positive "
                "shares that add up to 1, such as 0.6 0.2 0.2."
            )
        if not 0 <= self.allow_unused <= 1:
            raise ConfigError(
                f"allow_unused was given as {self.allow_unused}: it must be a share from 0 to 1."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TestConfig:
    """Test a trained learner again.

    Without options, or with --out alone, the recorded test is repeated, and the recorded accuracy
    must come out exactly. Any other option tests the learner in another way.

    Attributes:
        run: Folder of a finished training run.
        out: JSON file to write.
        data: Data set to test on.
        data_root: Folder given to `metalearn prepare` as --root.
        split: Split whose classes are tested.
        way: Number of classes in an episode.
        shot: Labelled (support) images of each class.
        query: Images of each class to classify.
        fewest_way: Draw the number of classes of each episode, from this one to --way.
        fewest_shot: Draw the number of support images of each class, from this one to --shot.
        episodes: Number of episodes.
        lower_steps: Numbers K of lower-level steps to test with, one test for each.
        backbone: MODULE:FUNCTION of the run's backbone, if that is not built in. Code is imported
            because you name it, never because a folder does.
    """

    __test__ = False  # no test, whatever pytest takes its name for

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    out: Annotated[Path | None, unset("PATH", "none")] = None
    data: Annotated[DataName | None, unset("NAME", "the run's")] = None
    data_root: Annotated[Path | None, unset("PATH", "the run's")] = None
    split: Annotated[Split | None, unset("{train,validation,test}", "test")] = None
    way: Annotated[int | None, unset("INT", "the run's")] = None
    shot: Annotated[int | None, unset("INT", "the run's")] = None
    query: Annotated[int | None, unset("INT", "the run's")] = None
    fewest_way: Annotated[int | None, unset("INT", "the run's")] = None
    fewest_shot: Annotated[int | None, unset("INT", "the run's")] = None
    episodes: Annotated[int | None, unset("INT", "the run's")] = None
    lower_steps: Annotated[tuple[int, ...], arg(help_behavior_hint="(default: the run's)")] = ()
    backbone: Annotated[str | None, unset("MODULE:FUNCTION", "a built-in one")] = None

    def __post_init__(self) -> None:
        require_at_least("episodes", self.episodes, 2)

    @property
    def again(self) -> bool:
        """True if this is the recorded test, to be repeated."""
        return self == TestConfig(run=self.run, out=self.out, backbone=self.backbone)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassifyConfig:
    """Answer which class each of your pictures is, after a few labelled pictures of each class.

    Writes answers.csv and answers.html, a page that needs no other file. What is no picture is
    listed with its reason.

    Attributes:
        run: Folder of a finished training run.
        support: Folder with one folder of labelled pictures for each class.
        query: Pictures to classify, or folders that hold them.
        out: Folder for the answers. Answers that are there are replaced.
        abstain: Share of right answers to reach, such as 0.95, by giving no answer where the
            probability is below a threshold. The threshold is found on validation episodes of the
            run's data with as many classes and shots.
        inverted: Dark is turned into light before the network sees a picture, as drawings on paper
            need where those of the training data have light ink.
        by_support: Normalise each picture by the statistics of the labelled pictures. For runs with
            transductive normalisation, which need this or --together.
        together: Answer all pictures as one batch, as such runs were tested. An answer then depends
            on the other pictures.
        backbone: Backbone of the run again, module:function, where it is none of the built-in
            ones: a folder never makes this program run code.
        l2: Weight of the L2 penalty on the head.
    """

    run: Path
    support: Path
    query: tuple[Path, ...]
    out: Path
    abstain: Annotated[float | None, unset("SHARE", "answer always")] = None
    inverted: Annotated[bool | None, unset("{True,False}", "as the run's data need")] = None
    by_support: bool = False
    together: bool = False
    backbone: Annotated[str | None, unset("MODULE:FUNCTION", "built in")] = None
    l2: Annotated[float | None, unset("FLOAT", "the run's")] = None

    def __post_init__(self) -> None:
        require_paths("query", self.query)
        for name, path in (("run", self.run), ("support", self.support), ("out", self.out)):
            require_path(name, path)
        if not self.query:
            raise ConfigError("query was given as none: give pictures or folders of them.")
        if self.abstain is not None and not 0 < self.abstain < 1:
            raise ConfigError(f"abstain was given as {self.abstain}: it must be between 0 and 1.")
        require_positive("l2", self.l2)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig:
    """Train methods from the same seeds on the same episodes, and compare them in pairs.

    Finished runs in the folder are kept, and stopped ones resumed.

    Attributes:
        out: Folder for the runs and the table.
        methods: Methods to train.
        seeds: Seeds of the initial weights and the training episodes: one run of each method each.
        budget: Unit and amount of the budget of each run: upper steps, training tasks,
            images of training tasks (each counted once, however often it passes the network), or
            seconds. A method whose step takes more tasks gets fewer steps.
        settings: Settings of every run, as for `metalearn train`; --run, --method and --seed are
            set by the above.
    """

    out: Path = Path("runs/compare")
    methods: tuple[MethodName, ...] = ("memory-reduced", "itd-bio", "anil", "maml-baseline")
    seeds: tuple[int, ...] = (0, 1, 2)
    budget: Annotated[
        tuple[BudgetKind, float] | None,
        unset("{steps,tasks,images,seconds} NUMBER", "--steps for each"),
    ] = None
    settings: Annotated[TrainConfig, arg(name="")] = TrainConfig()

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds:
            raise ConfigError("methods and seeds were given as none: give at least one of each.")
        if self.budget is not None and not (self.budget[1] > 0 and math.isfinite(self.budget[1])):
            raise ConfigError(
                f"budget was given as {self.budget[1]:g}: it must be positive and finite."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureConfig:
    """Measure the peak memory of one upper step against K, for `metalearn figure memory`.

    Attributes:
        out: JSON file to write.
        methods: Methods to measure.
        k: Numbers K of lower-level steps to measure. Methods that solve to a tolerance take as much
            for each.
        settings: Settings of the runs; --method and --lower-steps are set by the above.
    """

    out: Path = Path("memory.json")
    methods: tuple[MethodName, ...] = (
        "memory-reduced",
        "memory-reduced-exact",
        "itd-bio",
        "anil",
        "maml",
    )
    k: tuple[int, ...] = (1, 5, 10, 20, 50, 100)
    settings: Annotated[TrainConfig, arg(name="")] = TrainConfig()

    def __post_init__(self) -> None:
        if not self.methods or not self.k:
            raise ConfigError("methods and k were given as none: give at least one of each.")
        require_at_least("k", min(self.k), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyConfig:
    """Accuracy of finished runs: against steps and seconds (figure), or paired (table).

    Attributes:
        runs: Folder that holds the run folders.
        out: File to write: a PNG for a figure, Markdown for a table. A table is printed, too.
        reference: Method that the others are compared to.
    """

    runs: Path
    out: Annotated[Path | None, unset("PATH", "figure: KIND.png; table: none")] = None
    reference: Annotated[str | None, unset("METHOD", "the first by name")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Peak memory of one upper step against K.

    Attributes:
        measured: File that `metalearn measure` wrote.
        out: File to write: a PNG for a figure, Markdown for a table. A table is printed, too.
    """

    measured: Path
    out: Annotated[Path | None, unset("PATH", "figure: KIND.png; table: none")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HypergradientConfig:
    """Distance of hypergradients from the exact ones, in runs with --hypergradient-error.

    Attributes:
        runs: Folder that holds the run folders.
        out: File to write: a PNG for a figure, Markdown for a table. A table is printed, too.
    """

    runs: Path
    out: Annotated[Path | None, unset("PATH", "figure: KIND.png; table: none")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptationConfig:
    """Accuracy against K at test time, and the reliability diagram.

    Attributes:
        tested: Files that `metalearn test --lower-steps ... --out FILE` wrote.
        out: PNG to write.
    """

    tested: tuple[Path, ...]
    out: Annotated[Path | None, unset("PATH", "figure: KIND.png; table: none")] = None

    def __post_init__(self) -> None:
        if not self.tested:
            raise ConfigError("tested was given as none: give a file of `metalearn test`.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeConfig:
    """One test episode of a run: labelled pictures, query pictures, probabilities of the classes.

    Attributes:
        run: Folder of a finished run.
        index: Number of the test episode, from 0.
        backbone: Backbone of the run, if it is MODULE:FUNCTION.
        out: PNG to write.
    """

    run: Path
    index: int = 0
    backbone: Annotated[str | None, unset("MODULE:FUNCTION", "the run's built-in one")] = None
    out: Annotated[Path | None, unset("PATH", "episode.png")] = None

    def __post_init__(self) -> None:
        require_at_least("index", self.index, 0)


_Accuracy = Annotated[AccuracyConfig, subcommand("accuracy", prefix_name=False)]
_Memory = Annotated[MemoryConfig, subcommand("memory", prefix_name=False)]
_Hypergradient = Annotated[HypergradientConfig, subcommand("hypergradient", prefix_name=False)]
_Adaptation = Annotated[AdaptationConfig, subcommand("adaptation", prefix_name=False)]
_Episode = Annotated[EpisodeConfig, subcommand("episode", prefix_name=False)]


@dataclass(frozen=True, slots=True)
class FigureConfig:
    """Draw a figure from result files.

    Attributes:
        what: accuracy, memory, hypergradient, adaptation or episode.
    """

    what: Annotated[_Accuracy | _Memory | _Hypergradient | _Adaptation | _Episode, arg(name="")]


@dataclass(frozen=True, slots=True)
class TableConfig:
    """Print a table from result files.

    Attributes:
        what: accuracy, memory or hypergradient.
    """

    what: Annotated[_Accuracy | _Memory | _Hypergradient, arg(name="")]
