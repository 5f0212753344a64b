"""Labels of any kind that can be told apart, and the classes they name."""

from __future__ import annotations

from collections.abc import Hashable
from contextlib import suppress
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from metalearn.errors import LearnerError

_PLAIN = (str, int, float, bool)


def classes_of(labels: Any, count: int) -> tuple[Shaped[np.ndarray, " c"], Int[np.ndarray, " n"]]:
    """The classes in order (of value, or where values have none, of appearance), and each one's.

    Args:
        labels: label of each picture, hashable.
        count: number of pictures.

    Returns:
        The classes, and for each label the place of its class.

    Raises:
        LearnerError: not one label for each picture, fewer than two classes, or labels that are
            missing or can't be told apart.
    """
    given = one_each(labels, count)
    if given.dtype.kind == "f":
        if not np.isfinite(given).all():
            raise LearnerError("the labels hold NaN or inf: give each picture a class.")
        if (given != np.round(given)).any():
            raise LearnerError(
                "Unknown label type: fractions were given, and a class is no quantity. Give "
                "integers or names."
            )
    if given.dtype == object:
        classes, places = _of_objects(given)
    else:
        classes, places = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise LearnerError(
            f"the labels name one class, {classes[0]}: give pictures of two classes or more."
        )
    return classes, places


def one_each(labels: Any, count: int) -> Shaped[np.ndarray, " n"]:
    """Labels as an array, one for each picture.

    Raises:
        LearnerError: there are more or fewer, or none.
    """
    if labels is None:
        raise LearnerError(
            "a classifier requires y to be passed, but the target y is None: give a label for each "
            "picture."
        )
    given = labels if isinstance(labels, np.ndarray) else _as_array(labels)
    if given.ndim == 2 and given.shape[1] == 1:
        given = given[:, 0]
    if given.ndim != 1 or len(given) != count:
        raise LearnerError(
            f"labels of shape {given.shape} were given for {count} pictures: give one for each."
        )
    return given


def _as_array(labels: Any) -> np.ndarray:
    """Labels as an array of their own type if they share a plain one, else of objects."""
    if hasattr(labels, "__array__"):  # tensors, columns of tables
        return np.asarray(labels)
    items = list(labels)
    kinds = {type(item) for item in items}
    if len(kinds) == 1 and issubclass(next(iter(kinds)), (*_PLAIN, np.generic)):
        return np.asarray(items)
    array = np.empty(len(items), object)
    for at, item in enumerate(items):
        array[at] = item
    return array


def _of_objects(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    places: dict[Hashable, int] = {}
    for label in labels:
        try:
            places.setdefault(label, len(places))
        except TypeError as error:
            raise LearnerError(
                f"the label {label!r} can't be told apart from others ({error}): give text, "
                "numbers or tuples."
            ) from error
    found: list[Any] = list(places)
    with suppress(TypeError):  # kinds without an order among each other stay as they came
        found = sorted(found)
    places = {label: at for at, label in enumerate(found)}
    classes = np.empty(len(found), object)
    for at, label in enumerate(found):
        classes[at] = label
    return classes, np.array([places[label] for label in labels])


def to_json(classes: Shaped[np.ndarray, " c"]) -> dict[str, Any]:
    """Classes as values that JSON can hold.

    Raises:
        LearnerError: a class is neither text nor a number, nor a tuple of these.
    """
    if classes.dtype != object:
        return {"kind": classes.dtype.str, "values": classes.tolist()}
    for label in classes:
        parts = label if isinstance(label, tuple) else (label,)
        if not all(isinstance(part, _PLAIN) for part in parts):
            raise LearnerError(
                f"the class {label!r} can't be written to a file: use text, numbers or tuples of "
                "them as labels."
            )
    return {
        "kind": "O",
        "values": [list(label) if isinstance(label, tuple) else label for label in classes],
    }


def from_json(found: dict[str, Any]) -> Shaped[np.ndarray, " c"]:
    """Classes that `to_json` made.

    Raises:
        ValueError, KeyError, TypeError: it made something else.
    """
    if found["kind"] != "O":
        return np.array(found["values"], np.dtype(found["kind"]))
    classes = np.empty(len(found["values"]), object)
    for at, label in enumerate(found["values"]):
        classes[at] = tuple(label) if isinstance(label, list) else label
    return classes
