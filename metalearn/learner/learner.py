"""`Learner`: a trained backbone that learns classes from a few pictures of each.

Shapes: N pictures, d features, c classes, k neighbours.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from metalearn.backbones.per_task import PerTask
from metalearn.backbones.source import Source
from metalearn.errors import ConfigError, LearnerError, RunError, UnsolvedWarning
from metalearn.learner.labels import classes_of, from_json, one_each, to_json
from metalearn.learner.pictures import Pictures, to_batch
from metalearn.learner.statistics import normalised_by, statistics
from metalearn.learner.trained import Embedding, Trained
from metalearn.methods.method import Adapted
from metalearn.methods.model import HEAD
from metalearn.runs import card as cards
from metalearn.runs.folder import WEIGHTS, Run

_MODEL, _ADAPTED, _SUPPORT = "model.", "adapted.", "support"
_STATISTICS: Final = "statistics."
_PARAMETERS: Final = ("trained", "l2", "by_support", "together")


class Learner:
    """Classifier that learns any number of classes from a few pictures of each.

    `load` makes one from a run. It follows scikit-learn's conventions, so that it can be cloned,
    searched over and scored there, and needs no scikit-learn.

    A picture is an array (H, W, C), a tensor (C, H, W), a PIL image or a path; all functions take
    one picture or several, and answer for several. Whatever its form, size and colour, a picture
    becomes what it would have been in training.

    Args:
        trained: the frozen backbone of a run, with its method.
        l2: weight of the L2 penalty on the head; None: the run's.
        by_support: normalise each picture by the statistics of the pictures of `fit`, in a run with
            transductive normalisation. Answers are those of single pictures. The run was not tested
            so: docs/guides/learner.md has what was measured.
        together: normalise the pictures of one call together, as a run with transductive
            normalisation does with the queries of an episode. An answer then depends on the other
            pictures of the call. Without this or `by_support` such a run answers nothing.

    Attributes:
        classes_: the classes, sorted; those of `fit`.
        shots_: number of pictures of each class in `fit`.
        converged_: True if the lower solver met its tolerance in `fit`; None if it has none.
    """

    classes_: Shaped[np.ndarray, " c"]
    shots_: Int[np.ndarray, " c"]
    converged_: bool | None

    def __init__(
        self,
        trained: Trained,
        *,
        l2: float | None = None,
        by_support: bool = False,
        together: bool = False,
    ) -> None:
        self.trained = trained
        self.l2 = l2
        self.by_support = by_support
        self.together = together

    def fit(self, images: Pictures, labels: Any) -> Learner:
        """Learn the classes of labelled pictures, in place of those learned before.

        Args:
            images: any number of pictures of each class.
            labels: the class of each, hashable.

        Warns:
            UnsolvedWarning: the lower solver ended above its tolerance.

        Raises:
            LearnerError: not one label for each picture, one class only, or something that is no
                picture.
            ConfigError: the run's method can't be used for so many classes, or has no `l2`.
            hypergrad.NotFiniteError: the lower level is not finite.
        """
        batch = to_batch(images, self.trained.card.pictures)
        classes, places = classes_of(labels, len(batch))
        adapted = self.trained.adapt(batch, torch.from_numpy(places), way=len(classes), l2=self.l2)
        found = self._statistics_of(batch, adapted)
        if adapted.converged is False:
            warnings.warn(
                f"the head ended above the lower solver's tolerance (its gradient is "
                f"{adapted.stationarity:.1e} long): it is no minimiser. Give a larger l2.",
                UnsolvedWarning,
                stacklevel=2,
            )
        self.classes_, self.converged_ = classes, adapted.converged
        self.shots_ = np.bincount(places, minlength=len(classes))
        self._values = dict(adapted.values)
        self._statistics = found
        self._support = self.trained.embed(batch)
        return self

    def predict(self, images: Pictures) -> Shaped[np.ndarray, " N"]:
        """The most probable class of each picture.

        Raises:
            LearnerError: before `fit`, something that is no picture, or a run whose answers depend
                on the other pictures of the call.
        """
        best = self._scores(images).argmax(-1).numpy()
        named: np.ndarray = self.classes_[best]
        return named

    def predict_proba(self, images: Pictures) -> Float[np.ndarray, "N c"]:
        """Probabilities of the classes, in the order of `classes_`; see `predict`."""
        return self._scores(images).double().softmax(-1).numpy()

    def embed(self, images: Pictures) -> Float[np.ndarray, "N d"]:
        """Features of each picture by the trained backbone; needs no `fit`, see `predict`."""
        return self._embedded(images).numpy()

    def nearest(
        self, images: Pictures, *, count: int = 3
    ) -> tuple[Int[np.ndarray, "N k"], Float[np.ndarray, "N k"]]:
        """The pictures of `fit` with the nearest features, nearest first.

        Args:
            images: pictures to compare.
            count: k, or fewer if there are not so many.

        Returns:
            Their places in `fit`, and their distances.

        Raises:
            LearnerError: see `predict`; or a count below 1.
        """
        self._require_fitted()
        if count < 1:
            raise LearnerError(f"count was given as {count}: it must be at least 1.")
        distances = torch.cdist(self._embedded(images), self._support)
        found = distances.topk(min(count, len(self._support)), largest=False)
        return found.indices.numpy(), found.values.numpy()

    def score(self, images: Pictures, labels: Any, sample_weight: Any = None) -> float:
        """Share of pictures that get their label, each counted `sample_weight` times if given."""
        named = self.predict(images)
        given = one_each(labels, len(named))
        right = np.array([a == b for a, b in zip(named, given, strict=True)], float)
        return float(np.average(right, weights=sample_weight))

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **parameters: Any) -> Learner:
        """Set parameters by name; what was learned stays until the next `fit`.

        Raises:
            LearnerError: there is no such parameter.
        """
        for name, value in parameters.items():
            if name not in _PARAMETERS:
                raise LearnerError(
                    f"Invalid parameter {name!r} for a learner: it has {', '.join(_PARAMETERS)}."
                )
            setattr(self, name, value)
        return self

    def save(self, path: str | Path) -> None:
        """Write everything that answers depend on to one safetensors file, for `load`.

        Raises:
            LearnerError: before `fit`, or labels that are neither text nor numbers.
            RunError: the file can't be written.
        """
        self._require_fitted()
        tensors = {f"{_MODEL}{k}": v for k, v in self.trained.model.state_dict().items()}
        tensors |= {f"{_ADAPTED}{k}": v for k, v in self._values.items()}
        tensors |= {f"{_STATISTICS}{k}": v for k, v in self._statistics.items()}
        tensors[_SUPPORT] = self._support
        learned = {
            "classes": to_json(self.classes_),
            "shots": self.shots_.tolist(),
            "converged": self.converged_,
            "l2": self.l2,
            "by_support": self.by_support,
            "together": self.together,
        }
        try:
            cards.write(Path(path), tensors, self.trained.card, learned=learned)
        except OSError as error:
            raise RunError(f"{path} can't be written ({error}): give another path.") from error

    def export(self, path: str | Path) -> None:
        """Write the embedding as a program of `torch.export`, for any number of pictures.

        The program takes pictures (N, C, H, W) in [0, 1] of the run's size and channels, and gives
        what `embed` does. `torch.export.load(path).module()` reads it, without this package.

        Raises:
            LearnerError: a run whose features depend on the other pictures of the call.
            RunError: the file can't be written.
        """
        self._require_one_by_one("export")
        picture = self.trained.card.pictures
        two = torch.zeros(2, picture.channels, picture.side, picture.side)
        program = torch.export.export(
            Embedding(self.trained),
            (two.to(self.trained.device),),
            dynamic_shapes={"images": {0: torch.export.Dim("pictures")}},
        )
        try:
            torch.export.save(program, Path(path))
        except OSError as error:
            raise RunError(f"{path} can't be written ({error}): give another path.") from error

    def __repr__(self) -> str:
        return (
            f"Learner({self.trained!r}, l2={self.l2}, by_support={self.by_support}, "
            f"together={self.together})"
        )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_values")

    def __sklearn_tags__(self) -> Any:
        """Tags that scikit-learn asks of an estimator; it alone calls this."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags

        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags(),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )

    def _scores(self, images: Pictures) -> Float[Tensor, "N c"]:
        self._require_fitted()
        self._require_one_by_one("predict")
        batch = to_batch(images, self.trained.card.pictures)
        with self._normalised():
            return self.trained.answer(self._values, batch)

    def _embedded(self, images: Pictures) -> Float[Tensor, "N d"]:
        self._require_one_by_one("embed")
        batch = to_batch(images, self.trained.card.pictures)
        with self._normalised():
            return self.trained.embed(batch)

    @property
    def _uses_support(self) -> bool:
        return self.by_support and not self.trained.one_by_one

    def _normalised(self) -> AbstractContextManager[None]:
        """Context of the support's statistics, if those were asked for."""
        if not self._uses_support:
            return nullcontext()
        self._require_fitted()
        if not self._statistics:
            raise LearnerError("by_support was set after fit: call fit(images, labels) again.")
        return normalised_by(self.trained.model, self._statistics)

    def _statistics_of(
        self, batch: Float[Tensor, "N C H W"], adapted: Adapted
    ) -> dict[str, Tensor]:
        """Statistics of the support where they are asked for and used, else none.

        Raises:
            LearnerError: the method adapts the weights that the statistics would be those of.
        """
        if not self._uses_support:
            return {}
        if isinstance(self.trained.model.backbone, PerTask):
            raise LearnerError(
                "by_support was given with a backbone of your own, whose statistics are its own "
                "business: use together=True, or train with --normalisation stored."
            )
        if adapted.values.keys() != {HEAD}:
            raise LearnerError(
                f"by_support was given with method {self.trained.config.method.name}, which adapts "
                "the whole network, and with it the statistics: use together=True, or train with "
                "--normalisation group."
            )
        return statistics(self.trained.model, batch.to(self.trained.device))

    def _require_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise LearnerError("this learner is not fitted yet: call fit(images, labels) first.")

    def _require_one_by_one(self, asked: str) -> None:
        given = self.together or self.by_support
        if self.together and self.by_support:
            raise LearnerError("by_support and together were given: give one.")
        if self.trained.one_by_one or (given and asked != "export"):
            return
        remedy = (
            ""
            if asked == "export"
            else (
                "Normalise each picture by the pictures of fit with by_support=True, or the "
                "pictures of a call as one batch, as the test episodes of the run were, with "
                "together=True. Or train"
            )
        )
        raise LearnerError(
            f"{asked} was asked of a run with normalisation {self.trained.card.normalisation}, "
            "which makes the features of a picture depend on the other pictures of the call, so "
            "that one picture alone gets another answer than in a batch. "
            f"{remedy or 'Train'} with --normalisation stored or group."
        )


def load(
    path: str | Path,
    *,
    backbone: Source | str | None = None,
    l2: float | None = None,
    by_support: bool = False,
    together: bool = False,
) -> Learner:
    """The learner of a finished run, ready for `fit`; or a saved one, ready for `predict`.

    Args:
        path: folder of a run, its weights, or the file that `Learner.save` wrote.
        backbone: the backbone that the run was trained with, or its name `module:function`, where
            it is none of the built-in ones: no file makes this package run code.
        l2: see `Learner`; a saved learner keeps its own.
        by_support: see `Learner`; a saved learner keeps its own.
        together: see `Learner`; a saved learner keeps its own.

    Raises:
        RunError: the path holds neither, or is damaged.
        ConfigError: the settings are not those of this version, or name another backbone.
    """
    place = Path(path)
    if place.is_dir():
        Run(place).card()
        place = place / WEIGHTS
    tensors, card, more = cards.load(place)
    if "learned" not in more:
        trained = Trained.of(tensors, card, backbone)
        return Learner(trained, l2=l2, by_support=by_support, together=together)
    try:
        learned = more["learned"]
        trained = Trained.of(_part(tensors, _MODEL), card, backbone)
        learner = Learner(
            trained,
            l2=learned["l2"],
            by_support=learned["by_support"],
            together=learned["together"],
        )
        learner.classes_ = from_json(learned["classes"])
        learner.shots_ = np.array(learned["shots"])
        learner.converged_ = learned["converged"]
        learner._values = {k: v.to(trained.device) for k, v in _part(tensors, _ADAPTED).items()}
        learner._statistics = {
            k: v.to(trained.device) for k, v in _part(tensors, _STATISTICS).items()
        }
        learner._support = tensors[_SUPPORT]
        if trained.one_by_one:
            _require_whole(learner)
    except (ConfigError, RunError):  # of the backbone that is given, or is not; of its weights
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RunError(f"{place} is damaged ({error!r}): save the learner again.") from error
    return learner


def _require_whole(learner: Learner) -> None:
    """Raise unless what was learned answers for the classes that are named.

    Raises:
        ValueError: the learner answers for other classes, or with NaN.
        KeyError, RuntimeError: something is missing, or of another shape.
    """
    picture = learner.trained.card.pictures
    blank = torch.zeros(1, picture.channels, picture.side, picture.side)
    found = learner.trained.answer(learner._values, blank)
    if found.shape != (1, len(learner.classes_)) or not found.isfinite().all():
        raise ValueError(
            f"answers of shape {tuple(found.shape)} for {len(learner.classes_)} classes, or NaN"
        )


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
