"""Image files and lists as people have them: what spreadsheets and drawing programs make."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from metalearn.data.reading import find_source, join
from metalearn.data.untrusted.images import decode
from metalearn.errors import DataError
from tests.metalearn import legacy


def _listed(row: str, *, file: str = "{c}_{i}.png", mark: bytes = b"") -> dict[str, bytes]:
    files = {}
    for split in legacy.SPLITS:
        rows = ["filename,label"]
        for name, i in ((f"{split}{c}", i) for c in range(2) for i in range(2)):
            path = file.format(c=name, i=i)
            files[f"images/{path}"] = legacy.encoded(np.zeros((8, 8, 3), np.uint8))
            rows.append(row.format(path=path, name=name))
        files[f"{split}.csv"] = mark + "\n".join(rows).encode()
    return files


@pytest.mark.parametrize(
    "files",
    [
        _listed("{path},{name}", mark=b"\xef\xbb\xbf"),
        _listed("{path},{name}", file="{c}/{i}.png"),
        _listed("./{path} , {name} "),
        _listed("elsewhere/{path},{name}"),
    ],
    ids=["byte order mark", "paths", "blanks", "other root"],
)
def test_a_csv_is_read_as_it_was_meant(files: dict[str, bytes], tmp_path: Path) -> None:
    parts = find_source(legacy.put(tmp_path, files), "folders").splits["train"]
    assert [(part.name, part.count) for part in parts] == [("train0", 2), ("train1", 2)]


def test_labels_counted_anew_in_each_split_are_to_be_renamed(tmp_path: Path) -> None:
    files = _listed("{path},0")
    with pytest.raises(DataError, match="rename them, such as validation-0"):
        join([find_source(legacy.put(tmp_path, files), "folders")])


@pytest.mark.parametrize("form", ["WEBP", "GIF", "TIFF", "BMP", "PPM"])
def test_other_formats_are_read_to_the_same_pixels(form: str) -> None:
    pixels = legacy.images(1, 16)[0]
    options = {"lossless": True} if form == "WEBP" else {}
    found = decode(_saved(Image.fromarray(pixels), form, **options), "x", side=16, channels=3)
    assert np.array_equal(found, pixels)  # two colours: a palette holds them


@pytest.mark.parametrize("form", ["GIF", "TIFF", "WEBP", "PNG"])
def test_of_several_frames_the_first_is_read_and_that_is_told(form: str, tmp_path: Path) -> None:
    first, second = (Image.fromarray(np.full((16, 16, 3), n, np.uint8)) for n in (40, 200))
    moving = _saved(first, form, save_all=True, append_images=[second])
    source = find_source(legacy.put(tmp_path, {f"train/a/1.{form.lower()}": moving}), "folders")
    (part,) = source.splits["train"]
    assert np.abs(part.load().astype(int) - 40).max() <= 1  # a palette or YUV rounds
    (remark,) = source.remarks.values()
    assert (remark.used, remark.file) == (True, f"{tmp_path.name}/train/a/1.{form.lower()}")
    assert "several frames" in remark.what


def _saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_grey_of_16_bits_is_scaled() -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint16) * 257, (256, 1))
    found = decode(_saved(Image.fromarray(ramp)), "ramp", side=256, channels=1)
    assert np.array_equal(found[..., 0], ramp // 257)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    drawing = np.zeros((8, 8, 4), np.uint8)
    drawing[2:6, 2:6, 3] = 255  # opaque here
    found = decode(_saved(Image.fromarray(drawing).convert(mode)), "ink", side=8, channels=1)
    assert np.array_equal(found[..., 0], 255 - drawing[..., 3])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_a_photograph_is_turned_upright(form: str) -> None:
    """Orientation 6: the camera was held so that the first row is the right edge."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 200
    lying = Image.fromarray(np.rot90(upright))
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decode(_saved(lying, form, exif=exif), "x", side=16, channels=3)
    assert np.abs(found.astype(int) - upright).max() <= 8  # JPEG and WebP round
    plain = decode(_saved(lying, form), "x", side=16, channels=3)
    assert np.abs(plain.astype(int) - upright).max() == pytest.approx(200, abs=8)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
def test_four_inks_become_the_three_colours_they_show(form: str) -> None:
    colours = np.zeros((16, 16, 3), np.uint8)
    colours[:, :8], colours[:, 8:] = (200, 40, 40), (250, 250, 250)
    found = decode(_saved(Image.fromarray(colours).convert("CMYK"), form), "x", side=16, channels=3)
    assert np.abs(found.astype(int) - colours).max() <= 8  # JPEG rounds


def test_values_without_a_known_white_are_refused() -> None:
    for dtype in (np.float32, np.int32):
        file = _saved(Image.fromarray(np.ones((8, 8), dtype)), "TIFF")
        with pytest.raises(DataError, match="of 32 bits, of which none is known to be white"):
            decode(file, "x", side=8, channels=1)
    grey = b"P5\n2 2\n65535\n" + np.array([0, 65535, 65535, 0], ">u2").tobytes()
    found = decode(grey, "x", side=2, channels=1)  # Pillow holds these in 32 bits, too
    assert found.ravel().tolist() == [0, 255, 255, 0]


def test_a_drawing_of_1_bit_is_smooth_when_it_is_resized() -> None:
    """Resized as it is, each pixel would be ink or paper; as grey it is the share of ink."""
    drawing = np.zeros((8, 8), bool)
    drawing[:, :3] = True
    found = decode(_saved(Image.fromarray(drawing)), "x", side=4, channels=1)
    assert found[..., 0].tolist() == [[255, 128, 0, 0]] * 4
