"""Figure of one test episode: labelled pictures, query pictures, and a learner's probabilities."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from metalearn.config.groups import normalised
from metalearn.errors import ConfigError
from metalearn.files import write_atomically
from metalearn.learner.learner import load
from metalearn.runs.folder import Run
from metalearn.training.build import evaluation_sampler

_ROWS: Final = 8  # query pictures that are shown
_WIDEST: Final = 20  # classes whose pictures can still be seen


def episode_figure(folder: Path, path: Path, *, index: int, backbone: str | None) -> None:
    """Draw one test episode of a run as a table: columns are classes, rows are query pictures.

    Above each column is the first labelled picture of the class, left of each row the query
    picture. A cell is the probability of the class; a frame marks the right one.

    Args:
        folder: folder of a finished run.
        path: PNG to write.
        index: number of the episode among those of the recorded test.
        backbone: name of the run's backbone, where it is none of the built-in ones.

    Raises:
        RunError: the run can't be read.
        ConfigError: the run has fewer test episodes, or so many classes that nothing could be seen.
        DataError: its data are not there any more.
        OSError: the file can't be written.
    """
    record, trained = Run(folder).result(), load(folder, backbone=backbone).trained
    config = trained.config
    if index >= config.evaluation.test_episodes:
        raise ConfigError(
            f"index {index} was given, and the run was tested on episodes 0 to "
            f"{config.evaluation.test_episodes - 1}: give one of these."
        )
    if config.test.way > _WIDEST:
        raise ConfigError(
            f"the run was tested on episodes of {config.test.way} classes, and at most {_WIDEST} "
            "can be drawn: give a run that was tested on fewer."
        )
    episode = evaluation_sampler("test", config, device=trained.device).sample(index, 1)
    scores = trained.method().predict(trained.model, episode)[0].double()
    probabilities = scores.softmax(-1).cpu().numpy()
    labelled, asked = (labels[0].cpu() for labels in (episode.support_labels, episode.query_labels))
    pictures = (255 * episode.images[0].clamp(0, 1)).round().to(torch.uint8).cpu()
    first = [int((labelled == label).nonzero()[0, 0]) for label in range(episode.way)]
    shown = pictures.permute(0, 2, 3, 1).numpy()
    right = probabilities.argmax(-1) == asked.numpy()
    _draw(
        shown[first],
        shown[len(labelled) :],
        probabilities,
        asked.numpy(),
        f"{config.data.name}, {config.test}, method {config.method.name}: test episode {index},\n"
        f"{right.sum()} of {len(right)} answers right; all {config.evaluation.test_episodes} "
        f"episodes {100 * record.accuracy:.2f} ± {100 * record.interval:.2f} %,\n"
        f"{normalised(record.normalisation)}",
        path,
    )


def _draw(
    support: np.ndarray,
    queries: np.ndarray,
    probabilities: Float[np.ndarray, "n c"],
    asked: Int[np.ndarray, " n"],
    title: str,
    path: Path,
) -> None:
    rows, way = min(len(queries), _ROWS), len(support)
    figure = Figure(figsize=(0.75 * (way + 1) + 0.3, 0.62 * (rows + 1) + 0.9), layout="constrained")
    panels = figure.subplots(rows + 1, way + 1, squeeze=False)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    for axes, picture in zip(panels[0, 1:], support, strict=True):
        _picture(axes, picture)
    for row, line in enumerate(panels[1:]):
        _picture(line[0], queries[row])
        for label, axes in enumerate(line[1:]):
            _cell(axes, probabilities[row, label], right=bool(label == asked[row]))
    panels[0, 0].text(0.5, 0.5, "labelled →\nasked ↓", ha="center", va="center", fontsize=7)
    figure.suptitle(title, fontsize=7.5)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    write_atomically(path, content.getvalue())


def _picture(axes: Axes, picture: np.ndarray) -> None:
    grey = picture.shape[2] == 1
    axes.imshow(picture[..., 0] if grey else picture, cmap="gray", vmin=0, vmax=255)


def _cell(axes: Axes, probability: float, *, right: bool) -> None:
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.add_patch(Rectangle((0, 0), 1, 1, color=(0.1, 0.35, 0.75, 0.9 * probability), lw=0))
    if right:
        frame = Rectangle((0.03, 0.03), 0.94, 0.94, fill=False, edgecolor="C1", lw=2)
        axes.add_patch(frame)
    colour = "white" if probability > 0.5 else "0.3"
    percent = f"{100 * probability:.0f} %"
    axes.text(0.5, 0.5, percent, ha="center", va="center", fontsize=7, color=colour)
