"""Own pictures in the layouts people have: what is read, how classes are divided, what is left."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from metalearn.cli import main
from metalearn.config.commands import PrepareConfig
from metalearn.data.published import SPLITS, DatasetName
from metalearn.data.reading import Options, find_source, join, read
from metalearn.errors import ConfigError, DataError
from tests.metalearn import legacy
from tests.metalearn.own import LAYOUTS, flat, listed, picture

SHARES = (0.6, 0.2, 0.2)


def made(
    folder: Path,
    *sources: Path,
    name: DatasetName = "folders",
    shares: tuple[float, ...] | None = None,
    seed: int = 0,
    drop: bool = False,
    unused: float = 0.01,
) -> dict[str, Any]:
    """What `prepare` makes of some sources, without its child process."""
    out = folder / "made"
    out.mkdir(exist_ok=True)
    options = Options(
        allow_partial=True, shares=shares, seed=seed, drop_duplicates=drop, allow_unused=unused
    )
    places = [str(source) for source in sources or (folder / "photos",)]
    return read(name, places, str(out), 16, asdict(options))


def classes(found: dict[str, Any]) -> dict[str, list[str]]:
    return {split: [name for name, _ in parts] for split, parts in found["sizes"].items()}


def test_a_flat_folder_is_divided_by_class(tmp_path: Path) -> None:
    legacy.put(tmp_path / "photos", flat(10) | {"class 03/more.png": picture()})
    found = classes(made(tmp_path, shares=SHARES))
    assert [len(found[split]) for split in SPLITS] == [6, 2, 2]
    names = sorted(name for chosen in found.values() for name in chosen)
    assert names == [f"class {number:02d}" for number in range(10)]
    assert classes(made(tmp_path, shares=SHARES)) == found
    others = [classes(made(tmp_path, shares=SHARES, seed=seed)) for seed in range(1, 6)]
    assert any(other != found for other in others)
    counts = {
        name: n for parts in made(tmp_path, shares=SHARES)["sizes"].values() for name, n in parts
    }
    assert counts == {f"class {n:02d}": 3 if n == 3 else 2 for n in range(10)}


def test_one_class_more_moves_few_others(tmp_path: Path) -> None:
    """The order is each name's own; a shuffled list would be another one altogether."""
    tree = legacy.put(tmp_path / "photos", flat(100, each=1))
    before = join([find_source(tree, "folders")], SHARES)
    legacy.put(tree, {"one more/1.png": picture()})
    after = join([find_source(tree, "folders")], SHARES)
    place = {part.name: split for split in SPLITS for part in before[split]}
    moved = [p.name for s in SPLITS for p in after[s] if place.get(p.name, s) != s]
    assert len(moved) <= 2  # one over each border


def test_what_can_t_be_divided_is_refused(tmp_path: Path) -> None:
    legacy.put(tmp_path / "photos", flat(3))
    with pytest.raises(DataError, match="3 classes, such as class 00, are in no split.*--split"):
        made(tmp_path)
    with pytest.raises(DataError, match="gives 3 for train, 0 for validation, 0 for test: each"):
        made(tmp_path, shares=(0.9, 0.05, 0.05))
    two = legacy.put(
        tmp_path / "two", flat(2, form="a/{c}/{i}.png") | flat(2, form="b/{c}/{i}.png")
    )
    with pytest.raises(DataError, match="classes in 'a' and in 'b': give the one folder"):
        made(tmp_path, two, shares=SHARES)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"split": (0.6, 0.2, 0.1)}, "add up to 1"),
        ({"split": (0.8, 0.2, 0.0)}, "three positive shares"),
        ({"split": (float("nan"), 0.5, 0.5)}, "three positive shares"),
        ({"dataset": "cifar-fs", "split": SHARES}, "are for folders"),
        ({"dataset": "cifar-fs", "drop_duplicates": True}, "are for folders"),
        ({"allow_unused": 1.5}, "share from 0 to 1"),
        ({"verify": True}, "or --verify"),
    ],
)
def test_settings_that_can_t_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PrepareConfig(**({"dataset": "folders", "source": (Path("a"),)} | settings))


def test_with_split_the_source_s_own_splits_do_not_count(tmp_path: Path) -> None:
    files = {f"{split}/{c}/{split}.png": picture() for split in ("train", "test") for c in "abcde"}
    legacy.put(tmp_path / "photos", files)
    with pytest.raises(DataError, match="class a is in the train and the test split.*--split"):
        made(tmp_path)
    found = made(tmp_path, shares=SHARES)["sizes"]
    assert sorted((n, count) for parts in found.values() for n, count in parts) == [
        (name, 2) for name in "abcde"
    ]


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read(layout: str, archive: bool, tmp_path: Path) -> None:
    files, divided, said = LAYOUTS[layout]
    source = tmp_path / "photos"
    if archive:
        source = legacy.put(tmp_path, {"photos.zip": legacy.zipped(files())}) / "photos.zip"
    else:
        legacy.put(source, files())
    found = made(tmp_path, source, shares=(1 / 3, 1 / 3, 1 / 3) if divided else None)
    assert found["source"]["layouts"] == [said]
    counts = {split: [n for _, n in parts] for split, parts in found["sizes"].items()}
    assert all(counts[split] == [2, 2] for split in SPLITS)
    lost = [row for row in found["remarks"] if row["what"] != "no picture"]
    assert lost == []


def test_the_labels_of_a_list_go_to_its_pictures(tmp_path: Path) -> None:
    for layout, place in (("VGG Flowers", "{:03d}"), ("Meta-Album", "breed {}")):
        folder = legacy.put(tmp_path / layout, LAYOUTS[layout][0]())
        (first, *_) = find_source(folder, "folders").unsplit
        offset = 1 if layout == "VGG Flowers" else 0
        assert first.name == place.format(offset)
        numbers = [int(Path(file).stem.rpartition("_")[2]) for file in first.files]
        assert numbers == [offset, offset + 6]


def test_a_list_of_other_columns_is_refused(tmp_path: Path) -> None:
    files = {"train.json": b'[{"picture": "a.png", "label": 1}]', "a.png": picture()}
    with pytest.raises(DataError, match=r"columns \['picture', 'label'\], where filename"):
        made(tmp_path, legacy.put(tmp_path / "s", files))
    for name, rows, said in (
        ("semicolons", b"filename;label\na.png;1", r"\['filename;label'\].* separated by commas"),
        ("blank", b"filename,label\na.png,1\nb.png,", "labels.csv has no label in entry 2"),
    ):
        files = {"labels.csv": rows, "a.png": picture(), "b.png": picture()}
        with pytest.raises(DataError, match=said):
            made(tmp_path, legacy.put(tmp_path / name, files))
    files = {"labels.csv": b"filename,label\na.png,1", "b/labels.csv": b"x", "a.png": picture()}
    with pytest.raises(DataError, match=r"several lists for one: b/labels.csv, labels.csv"):
        made(tmp_path, legacy.put(tmp_path / "t", files))
    files = {
        "imagelabels.mat": b"MATLAB 5.0 MAT-file" + bytes(200),
        "jpg/image_00001.jpg": picture(),
    }
    with pytest.raises(DataError, match="imagelabels.mat can't be read as a list"):
        made(tmp_path, legacy.put(tmp_path / "u", files))


def test_every_file_that_is_not_used_is_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "photos"
    legacy.put(source, flat(5, each=8) | {"class 00/deeper/1.png": picture()})
    legacy.put(source, {"loose.jpg": picture("JPEG"), "readme.txt": b"", "class 01/1.heic": b"x"})
    legacy.put(source, {".thumbs/1.png": picture()})
    (source / "class 01" / "broken.png").symlink_to("nowhere.png")
    (source / "class 02" / "up").symlink_to(source, target_is_directory=True)
    (source / "empty").mkdir()
    arguments = ["prepare", "folders", f"--source={source}", f"--root={tmp_path}", "--side=16"]
    arguments += ["--split", "0.6", "0.2", "0.2"]
    with pytest.raises(SystemExit):
        main(arguments)
    said = " ".join(capsys.readouterr().err.split())
    assert "4 of 44 pictures would be left out, more than 1 %" in said
    assert "'photos/class 00/deeper/1.png' (not in a folder CLASS at the top" in said
    assert not (tmp_path / "folders").exists()
    main([*arguments, "--allow-unused=0.1"])
    said = " ".join(capsys.readouterr().out.split())
    assert "not used: 8, of which 4 are pictures (all are in remarks.csv)" in said
    with (tmp_path / "folders" / "remarks.csv").open(encoding="utf-8", newline="") as file:
        rows = [
            (row["file"].removeprefix("photos/"), row["remark"]) for row in csv.DictReader(file)
        ]
    elsewhere = "not in a folder CLASS at the top, where the classes are"
    assert sorted(rows) == [
        (".thumbs", "hidden"),
        ("class 00/deeper/1.png", elsewhere),
        ("class 01/1.heic", "a picture of a format that is not read (heic)"),
        ("class 01/broken.png", "a broken link"),
        ("class 02/up", "a link to a folder that it lies in"),
        ("empty/", "an empty folder"),
        ("loose.jpg", elsewhere),
        ("readme.txt", "no picture"),
    ]
    manifest = json.loads((tmp_path / "folders" / "manifest.json").read_text())
    assert manifest["source"]["split"] == {"shares": [0.6, 0.2, 0.2], "seed": 0}
    main(["prepare", "folders", "--verify", f"--root={tmp_path}"])
    assert "all 6 files are as they were written" in " ".join(capsys.readouterr().out.split())
    images = tmp_path / "folders" / "train.images.npy"
    images.write_bytes(images.read_bytes()[:-1] + b"\x01")
    with pytest.raises(SystemExit):
        main(["prepare", "folders", "--verify", f"--root={tmp_path}"])
    assert "was changed: prepare the data set again" in " ".join(capsys.readouterr().err.split())


def test_a_picture_that_a_list_names_and_that_is_absent_counts(tmp_path: Path) -> None:
    files = listed("json")
    del files["images/val3.png"]
    legacy.put(tmp_path / "photos", files)
    with pytest.raises(DataError, match=r"1 of 12 pictures.*'photos/val3.png' \(named by val.json"):
        made(tmp_path)
    remarks = made(tmp_path, unused=0.1)["remarks"]
    assert [row["file"] for row in remarks if not row["used"]] == ["photos/val3.png"]


def test_links_between_neighbours_come_to_an_end(tmp_path: Path) -> None:
    source = legacy.put(tmp_path / "photos", flat(5))
    (source / "class 00" / "other").symlink_to(source / "class 01", target_is_directory=True)
    (source / "class 01" / "other").symlink_to(source / "class 00", target_is_directory=True)
    found = made(tmp_path, shares=SHARES, unused=0.5)
    assert sum(len(parts) for parts in found["sizes"].values()) == 5
    assert {row["file"] for row in found["remarks"]} >= {"photos/class 00/other/0.png"}
