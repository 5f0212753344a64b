"""One picture in every form comes out as the same values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metalearn.data.untrusted.images import decode
from metalearn.errors import LearnerError
from metalearn.learner.pictures import to_batch, to_pixels
from metalearn.runs.card import PictureFormat
from tests.metalearn.learner.subjects import pictures

FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda x: x,
    "batch": lambda x: x[None],
    "list": lambda x: [x],
    "float64": lambda x: x / 255,
    "float32": lambda x: (x / 255).astype(np.float32),
    "Fortran": np.asfortranarray,
    "a view": lambda x: np.repeat(x, 2, 0)[::2],
    "turned twice": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "tensor": lambda x: torch.from_numpy(x).movedim(-1, 0),
    "tensors": lambda x: torch.from_numpy(x).movedim(-1, 0)[None],
    "float tensor": lambda x: torch.from_numpy(x).movedim(-1, 0) / 255,
    "PIL": lambda x: Image.fromarray(x[..., 0] if x.shape[2] == 1 else x),
}


@pytest.mark.parametrize(
    ("side", "inverted"), [(28, False), (28, True), (20, True)], ids=["", "inverted", "resized"]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_form_is_what_its_file_would_be(
    channels: int, inverted: bool, side: int, tmp_path: Path
) -> None:
    x = pictures(1, channels=channels)[0][0]
    file = tmp_path / "x.png"
    FORMS["PIL"](x).save(file)
    expected = decode(
        file.read_bytes(), "x", side=side, channels=1 if channels == 1 else 3, invert=inverted
    )
    format_ = PictureFormat(side=side, channels=1 if channels == 1 else 3, inverted=inverted)
    for name, form in FORMS.items():
        assert np.array_equal(to_pixels(form(x), format_), expected[None]), name
    assert np.array_equal(to_pixels([file, x, str(file)], format_), np.stack([expected] * 3))


def test_a_batch_is_contiguous_and_in_the_unit_interval() -> None:
    x = np.asfortranarray(pictures(5, channels=3)[0])
    batch = to_batch(x, PictureFormat(side=28, channels=3))
    assert batch.is_contiguous()
    assert torch.equal(batch, torch.from_numpy(x.copy()).permute(0, 3, 1, 2) / 255)


def test_grey_and_colour_and_alpha_become_what_training_had() -> None:
    grey = np.full((9, 9), 100, np.uint8)
    colour = to_pixels(grey, PictureFormat(side=9, channels=3))
    assert colour.shape == (1, 9, 9, 3)
    assert (colour == 100).all()
    clear = np.zeros((9, 9, 4), np.uint8)
    assert (to_pixels(clear, PictureFormat(side=9, channels=1)) == 255).all()  # white paper
    rows = to_pixels(np.zeros((5, 9, 9), np.uint8), PictureFormat(side=9, channels=1))
    assert rows.shape == (5, 9, 9, 1)
    cmyk = Image.new("CMYK", (9, 9), (0, 255, 255, 0))
    assert (to_pixels(cmyk, PictureFormat(side=9, channels=3))[0, 0, 0] == (255, 0, 0)).all()


@pytest.mark.parametrize("first", [3, 4])
def test_an_array_with_its_channels_first_is_no_row_of_grey_pictures(first: int) -> None:
    x = pictures(1, channels=3)[0][0]
    turned = np.concatenate([x, np.full((28, 28, 1), 255, np.uint8)], -1)[..., :first]
    turned = np.ascontiguousarray(turned.transpose(2, 0, 1))
    colour, grey = PictureFormat(side=28, channels=3), PictureFormat(side=28, channels=1)
    with pytest.raises(LearnerError, match=rf"one colour .* or {first} grey ones\? .*transpose"):
        to_pixels(turned, colour)
    with pytest.raises(LearnerError, match=r"channels come last: array.transpose\(1, 2, 0\)"):
        to_pixels([turned], colour)
    # the ways that the message names, and a run for which there is nothing to ask
    assert np.array_equal(to_pixels(turned.transpose(1, 2, 0), colour), x[None])
    assert np.array_equal(to_pixels(torch.from_numpy(turned), colour), x[None])
    several = to_pixels(turned[..., None], colour)
    assert np.array_equal(several, np.repeat(turned[..., None], 3, -1))
    assert np.array_equal(to_pixels(turned, grey), turned[..., None])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "no picture was given"),
        (np.zeros((0, 8, 8, 3), np.uint8), "no picture was given"),
        (np.zeros(7, np.uint8), r"ndarray of shape \(7,\)"),
        (np.zeros((2, 8, 8, 5), np.uint8), r"ndarray of shape \(8, 8, 5\)"),
        (torch.zeros(5, 8, 8), r"Tensor of shape \(5, 8, 8\)"),
        (torch.zeros(9, 8, 3), r"Tensor of shape \(9, 8, 3\).* before pixels: tensor.movedim"),
        (torch.zeros(1, 2, 3, 8, 8), "Tensor of shape"),
        (np.zeros((8, 8, 3), np.int64), "holds int64"),
        (np.full((8, 8), np.nan), "NaN or inf"),
        (np.full((8, 8), 2.0), "from 2 to 2"),
        (np.full((8, 8), -0.1), "as it was before"),
        (Image.new("F", (8, 8)), "mode F, with values of 32 bits"),
        (Image.new("I", (8, 8)), "mode I, with values of 32 bits"),
    ],
)
def test_what_is_no_picture_is_refused(given: Any, said: str) -> None:
    with pytest.raises(LearnerError, match=said):
        to_pixels(given, PictureFormat(side=8, channels=3))


def test_a_file_that_is_no_picture_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(LearnerError, match="page.png is an HTML page"):
        to_pixels(tmp_path / "page.png", PictureFormat(side=8, channels=3))
    (tmp_path / "notes.png").write_text("notes")
    said = r"notes.png can't be read as a picture \(.*\): it is of another kind, or damaged.$"
    with pytest.raises(LearnerError, match=said):
        to_pixels(tmp_path / "notes.png", PictureFormat(side=8, channels=3))
    with pytest.raises(LearnerError, match="absent.png"):
        to_pixels(str(tmp_path / "absent.png"), PictureFormat(side=8, channels=3))
    with pytest.raises(LearnerError, match="is no file"):
        to_pixels(tmp_path, PictureFormat(side=8, channels=3))
