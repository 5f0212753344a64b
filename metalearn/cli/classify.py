"""`metalearn classify`: a trained learner answers for pictures of one's own."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor

from metalearn.config.commands import ClassifyConfig
from metalearn.config.groups import EpisodeShape, normalised
from metalearn.errors import DataError, EpisodeError, RunError
from metalearn.files import write_atomically
from metalearn.learner.folders import Folder, labels_of, pictures_in, read_folder, support_files
from metalearn.learner.learner import Learner, load
from metalearn.learner.statistics import normalised_by, statistics
from metalearn.report.page import Answer, Shown, page
from metalearn.runs.folder import Run
from metalearn.tasks.episodes import Episodes
from metalearn.testing.abstention import Threshold, calibrated
from metalearn.training.build import evaluation_sampler

CSV: Final = "answers.csv"
HTML: Final = "answers.html"
_EPISODES: Final = 200
_NEAREST: Final = 3


def classify(config: ClassifyConfig, *, console: Console) -> None:
    """Learn the labelled pictures, answer the others, and write the answers.

    Raises:
        MetalearnError: the run, a folder or an option can't be used; or the answers can't be
            written.
        hypergrad.HypergradError: the lower level is not finite.
    """
    run = Run(config.run)
    record = run.result()
    run.require_files_of(record)
    learner = load(
        config.run,
        backbone=config.backbone,
        l2=config.l2,
        by_support=config.by_support,
        together=config.together,
    )
    if config.inverted is not None:
        learner = _inverted(learner, config.inverted)
    picture = learner.trained.card.pictures
    labelled, beside = support_files(config.support)
    support = read_folder(labelled, picture)
    query = read_folder([f for path in config.query for f in pictures_in(path)], picture)
    if not query.files:
        raise DataError(
            f"none of the {len(query.left_out)} files of the query is a picture; the first: "
            f"{query.left_out[0][1]}"
        )
    labels = labels_of(support, config.support)
    learner.fit(support.pixels, labels)
    limit = None if config.abstain is None else _limit(learner, run, config.abstain)
    probabilities = learner.predict_proba(query.pixels)
    nearest, _ = learner.nearest(query.pixels, count=_NEAREST)
    given = probabilities.max(1) >= (0.0 if limit is None else limit.value)
    shots = np.unique(learner.shots_)
    notes = [
        f"{len(learner.classes_)} classes, "
        f"{' to '.join(map(str, dict.fromkeys((shots[0], shots[-1]))))} labelled pictures of each; "
        f"{len(query.files)} pictures, {int(given.sum())} answered.",
        f"Run {config.run.resolve().name}: {learner.trained.config.method.name} on "
        f"{learner.trained.card.data}; test accuracy there {100 * record.accuracy:.2f} ± "
        f"{100 * record.interval:.2f} % ({learner.trained.config.test}, "
        f"{normalised(learner.trained.card.normalisation)}). "
        + (
            "Each picture is answered by itself, as there."
            if learner.trained.one_by_one
            else "Each picture is normalised by the labelled ones, as the run was not tested."
            if config.by_support
            else "All pictures are normalised together: an answer depends on the others."
        ),
    ]
    if limit is not None:
        notes.append(f"Abstention: {limit}.")
    left = [(str(file), why) for part in (support, query) for file, why in part.left_out]
    left += [(str(file), f"{file} is in no folder of a class.") for file in beside]
    rows = _answers(learner, support, query, labels, probabilities, nearest, given)
    try:
        write_atomically(config.out / CSV, _csv(learner, rows, query.left_out).encode())
        text = page("Answers", notes, rows, left)
        write_atomically(config.out / HTML, text.encode())
    except OSError as error:
        raise RunError(f"{config.out} can't be written ({error}): give another --out.") from error
    for note in notes:
        _say(console, note)
    if left:
        _say(console, f"files left out: {len(left)}; the first: {left[0][1]}")
    _say(console, f"written: {config.out / CSV}, {config.out / HTML}")


def _inverted(learner: Learner, inverted: bool) -> Learner:
    trained = learner.trained
    picture = dataclasses.replace(trained.card.pictures, inverted=inverted)
    card = dataclasses.replace(trained.card, pictures=picture)
    return learner.set_params(trained=dataclasses.replace(trained, card=card))


def _limit(learner: Learner, run: Run, wanted: float) -> Threshold:
    """The threshold on validation episodes with as many classes and shots.

    Raises:
        EpisodeError: the validation split is too small, or no threshold is enough.
        DataError: the run's data are not there any more.
    """
    trained, config = learner.trained, run.config()
    way, shot = len(learner.classes_), int(learner.shots_.min())
    least = EpisodeShape(way=2, shot=1, query=1)
    pool = evaluation_sampler("validation", config.replace(test=least), device=trained.device).pool
    if way > pool.classes or pool.fewest < 2:
        raise EpisodeError(
            f"abstain was given for {way} classes, but the validation split of "
            f"{config.data.name} has {pool.classes} classes of at least {pool.fewest} images to "
            "find a threshold on: leave abstain out, or give fewer classes."
        )
    shot = min(shot, pool.fewest - 1)
    shape = EpisodeShape(way=way, shot=shot, query=min(5, pool.fewest - shot))
    sampler = evaluation_sampler("validation", config.replace(test=shape), device=trained.device)
    return calibrated(_scores(learner), sampler, wanted=wanted, episodes=_EPISODES)


def _scores(learner: Learner) -> Callable[[Episodes], Tensor]:
    """Scores of episodes, their queries normalised as the learner normalises pictures."""
    method, model = learner.trained.method(learner.l2), learner.trained.model
    if learner.trained.one_by_one or not learner.by_support:
        return lambda batch: method.predict(model, batch)

    def by_support(batch: Episodes) -> Tensor:
        found = []
        for images, labels in zip(batch.images, batch.support_labels, strict=True):
            support, query = images.tensor_split([len(labels)])
            values = method.adapt(model, support, labels, way=batch.way).values
            with normalised_by(model, statistics(model, support)):
                found.append(method.answer(model, values, query))
        return torch.stack(found)

    return by_support


def _answers(
    learner: Learner,
    support: Folder,
    query: Folder,
    labels: Sequence[str],
    probabilities: Float[np.ndarray, "n c"],
    nearest: Int[np.ndarray, "n k"],
    given: np.ndarray,
) -> list[Answer]:
    shown = [
        Shown(pixels=pixels, name=str(file), label=label)
        for pixels, file, label in zip(support.pixels, support.files, labels, strict=True)
    ]
    rows = []
    for at, file in enumerate(query.files):
        order = probabilities[at].argsort(kind="stable")[::-1]
        rows.append(
            Answer(
                pixels=query.pixels[at],
                name=str(file),
                probabilities=[
                    (str(learner.classes_[k]), float(probabilities[at, k])) for k in order
                ],
                given=bool(given[at]),
                nearest=[shown[place] for place in nearest[at]],
            )
        )
    return rows


def _csv(learner: Learner, rows: Sequence[Answer], left_out: Sequence[tuple[object, str]]) -> str:
    """A line for each file of the query, those that are no pictures last."""
    text = io.StringIO()
    writer = csv.writer(text)
    names = [str(name) for name in learner.classes_]
    near = [f"nearest {k + 1}" for k in range(_NEAREST)]
    writer.writerow(["file", "answer", "note", *(f"probability {name}" for name in names), *near])
    for row in rows:
        by_name = dict(row.probabilities)
        files = [shown.name for shown in row.nearest]
        writer.writerow(
            [
                row.name,
                row.probabilities[0][0] if row.given else "",
                "" if row.given else "too improbable",
                *(f"{by_name[name]:.6f}" for name in names),
                *files,
                *[""] * (_NEAREST - len(files)),
            ]
        )
    for file, reason in left_out:
        writer.writerow([file, "", f"not read: {reason}", *[""] * (len(names) + _NEAREST)])
    return text.getvalue()


def _say(console: Console, message: str) -> None:
    console.print(message, highlight=False, markup=False, soft_wrap=True)
