"""Parquet files of pictures: the classes of each split, and typed errors of all else."""

from __future__ import annotations

import builtins
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.config.commands import PrepareConfig
from metalearn.data.prepare import prepare
from metalearn.errors import DataError
from tests.metalearn import legacy
from tests.metalearn.own import picture
from tests.metalearn.test_own_pictures import SHARES, classes, made


@pytest.fixture
def arrow() -> Any:
    pytest.importorskip("pyarrow", reason="pyarrow is an optional extra: .[parquet]")
    return pytest.importorskip("pyarrow.parquet")


def table(
    arrow: Any,
    rows: Sequence[tuple[bytes | None, Any]],
    names: list[str] | None = None,
    columns: tuple[str, str] = ("image", "label"),
) -> bytes:
    """A file as the `datasets` library writes it."""
    pyarrow = sys.modules["pyarrow"]
    image, label = columns
    pictures = [{"bytes": content, "path": f"{n}.png"} for n, (content, _) in enumerate(rows)]
    found = pyarrow.table(
        {image: pictures, label: [label for _, label in rows], "id": [7] * len(rows)}
    )
    if names is not None:
        features = {label: {"names": names, "_type": "ClassLabel"}, image: {"_type": "Image"}}
        header = {"huggingface": json.dumps({"info": {"features": features}})}
        found = found.replace_schema_metadata(header)
    file = io.BytesIO()
    arrow.write_table(found, file, row_group_size=3)
    return file.getvalue()


def hub(arrow: Any) -> dict[str, bytes]:
    """Two files for training, one for each other split; ten classes by number, named beside."""
    names = [f"class {n}" for n in range(10)]
    wanted: dict[str, tuple[int, ...]] = {
        "train-00000-of-00002": (0, 1, 2),
        "train-00001-of-00002": (2, 1, 3),
    }
    wanted |= {"validation-00000-of-00001": (4, 5), "test-00000-of-00001": (6, 7)}
    files = {"README.md": b"a data set"}
    for stem, labels in wanted.items():
        rows = [(picture(), label) for _ in range(2) for label in labels]
        files[f"data/{stem}.parquet"] = table(arrow, rows, names)
    return files


def test_the_files_of_a_hub_are_read(arrow: Any, tmp_path: Path) -> None:
    legacy.put(tmp_path / "photos", hub(arrow))
    found = made(tmp_path)
    assert found["source"]["layouts"] == ["parquet files"]
    assert dict(found["sizes"]["train"]) == {f"class {n}": k for n, k in enumerate((2, 4, 4, 2))}
    assert classes(found)["validation"] == ["class 4", "class 5"]
    assert classes(found)["test"] == ["class 6", "class 7"]
    assert [row["file"] for row in found["remarks"]] == ["photos/README.md"]
    divided = made(tmp_path, shares=SHARES)
    assert sorted(n for names in classes(divided).values() for n in names) == [
        f"class {n}" for n in range(8)
    ]


def test_pixels_are_those_of_the_files(arrow: Any, tmp_path: Path) -> None:
    one, other = legacy.images(2, 16)
    files = {}
    for split, (a, b) in {"train": (one, other), "val": (one // 2, other // 2)}.items():
        rows = [(legacy.encoded(a), "x"), (legacy.encoded(b), "y")]
        named = [(content, f"{split} {label}") for content, label in rows]
        files[f"{split}.parquet"] = table(arrow, named, columns=("img", "fine_label"))
    legacy.put(tmp_path / "photos", files)
    made(tmp_path)
    images = np.load(tmp_path / "made" / "train.images.npy")
    assert np.array_equal(images[:, 0], np.stack([one, other]).transpose(0, 3, 1, 2))


def test_a_child_reads_them_within_its_limits(arrow: Any, tmp_path: Path) -> None:
    source = legacy.put(tmp_path / "photos", hub(arrow))
    store = prepare(PrepareConfig(dataset="folders", source=(source,), side=16, root=tmp_path))
    assert store.manifest["splits"]["train"]["images"] == 12


def test_a_copy_in_two_files_is_refused_by_row(arrow: Any, tmp_path: Path) -> None:
    files = hub(arrow)
    rows = [(picture(), "a"), (legacy.encoded(legacy.images(1, 16)[0]), "b")]
    files["data/train-00000-of-00002.parquet"] = table(arrow, rows)
    files["data/test-00000-of-00001.parquet"] = table(arrow, [(rows[0][0], "c")])
    legacy.put(tmp_path / "photos", files)
    with pytest.raises(DataError) as refused:
        made(tmp_path)
    assert "train-00000-of-00002.parquet[0] 0.png (a, train)" in str(refused.value)


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([(b"<html>", "a")], ("image", "label"), r"parquet\[0\] 0.png is an HTML page"),
        ([(None, "a"), (b"x", "a")], ("image", "label"), r"row 0 holds no picture"),
        ([(b"x", None)], ("image", "label"), "no label in row 0"),
        ([(b"x", "a"), (b"x", " ")], ("image", "label"), "no label in row 1"),
        ([(b"x", [0, 1])], ("image", "label"), "a list for a label in row 0"),
        ([(b"x", float("nan"))], ("image", "label"), "a float for a label in row 0"),
        ([(b"x", "a")], ("image", "text"), "the columns image, text, id, where one of pictures"),
    ],
)
def test_what_can_not_be_used_is_refused(
    rows: Any, columns: Any, said: str, arrow: Any, tmp_path: Path
) -> None:
    legacy.put(tmp_path / "photos", {"train.parquet": table(arrow, rows, columns=columns)})
    with pytest.raises(DataError, match=said):
        made(tmp_path)


def test_damage_ends_in_a_typed_error(arrow: Any, tmp_path: Path) -> None:
    """The child reads changed and cut files: each is read, or refused by type."""
    files, draw = hub(arrow), np.random.default_rng(0)
    name = "data/train-00000-of-00002.parquet"
    ends = set()
    for number in range(40):
        content = bytearray(files[name])
        if number % 4 == 0:
            del content[int(draw.integers(len(content))) :]
        else:
            for place in draw.integers(len(content), size=1 + number % 9):
                content[place] = draw.integers(256)
        folder = legacy.put(tmp_path / str(number), files | {name: bytes(content)})
        try:
            made(tmp_path, folder)
            ends.add("read")
        except DataError:
            ends.add("refused")
    assert "refused" in ends


def test_without_pyarrow_its_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *more: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "pyarrow":
            raise ImportError("No module named 'pyarrow'")
        return real(name, *more, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    legacy.put(tmp_path / "photos", {"train.parquet": b"PAR1"})
    with pytest.raises(DataError, match=r"pip install '\.\[parquet\]'"):
        made(tmp_path)
