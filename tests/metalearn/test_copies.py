"""No picture twice: eleven ways in which one is there again, each refused or left out by name."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metalearn.data.published import SPLITS
from metalearn.errors import DataError
from tests.metalearn import legacy
from tests.metalearn.own import flat, picture
from tests.metalearn.test_own_pictures import SHARES, made

ONE = legacy.images(1, 16)[0]


def _nested() -> dict[str, bytes]:
    return {
        f"{split}/{split} {c}/{i}.png": picture()
        for split in legacy.SPLITS
        for c in range(2)
        for i in range(2)
    }


def _rows(*more: str) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for split in legacy.SPLITS:
        rows = ["filename,label"]
        for number in range(2):
            files[f"images/{split}{number}.png"] = picture()
            rows.append(f"{split}{number}.png,{split}")
        files[f"{split}.csv"] = "\n".join([*rows, *(more if split == "train" else ())]).encode()
    return files


def _put(*places: str, forms: tuple[str, ...] = ("PNG", "PNG")) -> Callable[[Path], None]:
    """The same pixels in several places of the three splits."""

    def plant(source: Path) -> None:
        copies = {p: legacy.encoded(ONE, form) for p, form in zip(places, forms, strict=True)}
        legacy.put(source, _nested() | copies)

    return plant


def _whole_copy(source: Path) -> None:
    files = _nested()
    legacy.put(source, files | {f"train/{name}": content for name, content in files.items()})


def _linked_class(source: Path) -> None:
    legacy.put(source, _nested())
    (source / "test" / "test 9").symlink_to(source / "train" / "train 0")


def _with_alpha(source: Path) -> None:
    """What transparency hides differs; what is seen does not."""
    legacy.put(source, _nested())
    for name, hidden in (("train/train 0/x.png", 0), ("val/val 0/x.png", 200)):
        pixels = np.dstack([ONE, np.full(ONE.shape[:2], 255, np.uint8)])
        pixels[:4] = (hidden, hidden, hidden, 0)
        Image.fromarray(pixels).save(source / name)


def _listed(*rows: str) -> Callable[[Path], None]:
    def plant(source: Path) -> None:
        legacy.put(source, _rows(*rows))

    return plant


PLANTED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "in two splits": (
        _put("train/train 0/x.png", "test/test 0/x.png"),
        "photos/train/train 0/x.png (train 0, train) = photos/test/test 0/x.png (test 0, test)",
        "leaks from training",
    ),
    "in two splits, another format": (
        _put("train/train 0/x.png", "val/val 0/y.bmp", forms=("PNG", "BMP")),
        "train/train 0/x.png (train 0, train) = photos/val/val 0/y.bmp (val 0, validation)",
        "leaks from training",
    ),
    "twice in a class": (
        _put("train/train 0/x.png", "train/train 0/x copy.png"),
        "train/train 0/x copy.png (train 0, train) = photos/train/train 0/x.png",
        "--drop-duplicates",
    ),
    "twice in a class, another format": (
        _put("train/train 0/x.png", "train/train 0/x.webp", forms=("PNG", "TIFF")),
        "train/train 0/x.png (train 0, train) = photos/train/train 0/x.webp",
        "--drop-duplicates",
    ),
    "under two labels": (
        _put("train/train 0/x.png", "train/train 1/x.png"),
        "train/train 0/x.png (train 0, train) = photos/train/train 1/x.png (train 1, train)",
        "of two labels one is wrong",
    ),
    "a copy of all inside": (
        _whole_copy,
        "train/train 0/0.png (train 0, train) = photos/train/train/train 0/0.png",
        "pictures that are there twice: 12",
    ),
    "a link to another class": (
        _linked_class,
        "train/train 0/0.png (train 0, train) = photos/test/test 9/0.png (test 9, test)",
        "leaks from training",
    ),
    "the same to the eye": (_with_alpha, "train/train 0/x.png", "val/val 0/x.png"),
    "a doubled row": (
        _listed("train0.png,train"),
        "photos/train.csv names train0.png a second time",
        "leave the one row",
    ),
    "a row with another label": (
        _listed("train0.png,cat"),
        "photos/train.csv names train0.png a second time",
        "leave the one row",
    ),
    "a row of another split": (
        _listed("test0.png,train"),
        "photos/train.csv names test0.png a second time",
        "leave the one row",
    ),
}


@pytest.mark.parametrize("way", PLANTED)
def test_a_planted_copy_is_refused_by_name(way: str, tmp_path: Path) -> None:
    plant, named, remedy = PLANTED[way]
    plant(tmp_path / "photos")
    with pytest.raises(DataError) as refused:
        made(tmp_path)
    assert named in str(refused.value)
    assert remedy in str(refused.value)


@pytest.mark.parametrize("files", [_nested, _rows])
def test_without_a_copy_nothing_is_refused(
    files: Callable[[], dict[str, bytes]], tmp_path: Path
) -> None:
    legacy.put(tmp_path / "photos", files())
    assert set(made(tmp_path)["sizes"]) == set(SPLITS)


def test_a_link_to_a_folder_above_is_not_followed(tmp_path: Path) -> None:
    source = legacy.put(tmp_path / "photos", _nested())
    (source / "train" / "train 0" / "up").symlink_to(source)
    found = made(tmp_path)
    assert [n for parts in found["sizes"].values() for _, n in parts] == [2] * 6
    assert [row["file"] for row in found["remarks"]] == ["photos/train/train 0/up"]


def test_a_source_given_twice_is_refused(tmp_path: Path) -> None:
    source = legacy.put(tmp_path / "photos", flat(5))
    with pytest.raises(DataError, match="pictures that are there twice: 10"):
        made(tmp_path, source, source, shares=SHARES)


def test_copies_in_a_class_can_be_dropped_and_are_listed(tmp_path: Path) -> None:
    plant, *_ = PLANTED["twice in a class"]
    plant(tmp_path / "photos")
    found = made(tmp_path, drop=True)
    assert dict(found["sizes"]["train"]) == {"train 0": 3, "train 1": 2}
    (row,) = found["remarks"]
    assert row == {
        "file": "photos/train/train 0/x.png",
        "used": False,
        "what": "the same as photos/train/train 0/x copy.png",
    }
    images = np.load(tmp_path / "made" / "train.images.npy")
    assert len(np.unique(images[0], axis=0)) == 3
    PLANTED["in two splits"][0](tmp_path / "photos")
    with pytest.raises(DataError, match="leaks from training"):
        made(tmp_path, drop=True)


def test_a_published_set_is_kept_as_published(tmp_path: Path) -> None:
    """Up to 1 % is remarked: CIFAR-100 itself has some pictures twice, and under two labels."""
    tree = legacy.put(tmp_path / "photos", legacy.official_folder())
    found = made(tmp_path, tree, name="cifar-fs")
    assert found["remarks"] == []
    pair = {
        f"train/{name}/x.png": legacy.encoded(legacy.images(1, 16)[0]) for name in ("bus", "girl")
    }
    pair["test/baby/x.png"] = pair["train/girl/x.png"]
    with pytest.raises(DataError, match="Of cifar-fs at most 1 % is"):
        made(tmp_path, legacy.put(tmp_path / "few", pair), name="cifar-fs")
    more = {f"train/bus/{number}.png": picture() for number in range(120)}
    found = made(tmp_path, legacy.put(tmp_path / "many", pair | more), name="cifar-fs")
    (row,) = found["remarks"]
    assert row["used"]
    assert row["file"] == "many/test/baby/x.png"
    assert row["what"] == "the same picture as many/train/girl/x.png (girl, train)"
