"""Image files and lists as people have them: what spreadsheets and drawing programs make."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalearn.data.published import published
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


def test_images_that_are_left_out_are_told(tmp_path: Path) -> None:
    files = legacy.folders("cifar-fs") | {"train/apple/3.webp": b"RIFF"}
    source = find_source(legacy.put(tmp_path, files), "folders", side=published("cifar-fs").side)
    assert "left out: 1 .webp" in source.notes[0]


def _saved(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
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
