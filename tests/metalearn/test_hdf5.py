"""torchmeta's HDF5 files give what the official ones do; what is elsewhere is refused."""

import io
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from metalearn.data.published import SPLITS, DatasetName
from metalearn.data.readers.omniglot import HALVES
from metalearn.data.reading import find_source
from metalearn.data.untrusted import hdf5
from metalearn.data.untrusted.hdf5 import read_hdf5
from metalearn.errors import DataError
from tests.metalearn import legacy
from tests.metalearn.fuzz import entries
from tests.metalearn.legacy import DATA, put
from tests.metalearn.test_prepare import real, refusal, stored


def _equal(
    name: DatasetName, folder: Path, official: Mapping[str, bytes], made: Mapping[str, bytes]
) -> None:
    first = stored(name, put(folder / "official", dict(official)))
    theirs = [first.split(split) for split in SPLITS]
    second = stored(name, put(folder / "torchmeta" / name, dict(made)))
    assert second.manifest["source"]["layouts"] == ["torchmeta's HDF5"]
    for their, our in zip(theirs, (second.split(split) for split in SPLITS), strict=True):
        assert our.names == their.names
        assert np.array_equal(our.images, their.images)
        assert np.array_equal(our.counts, their.counts)


def test_forms_of_torchmeta_s_equal_what_they_were_made_from(tmp_path: Path) -> None:
    zips, folder, pickles = legacy.omniglot(), legacy.official_folder(), legacy.cache("val")
    _equal("omniglot", tmp_path / "a", zips, legacy.torchmeta_omniglot(zips))
    _equal("cifar-fs", tmp_path / "b", folder, legacy.torchmeta_cifar(folder))
    _equal("fc100", tmp_path / "c", folder, legacy.torchmeta_cifar(folder))
    _equal("miniimagenet", tmp_path / "d", pickles, legacy.torchmeta_mini(pickles))


@real
def test_real_omniglot_is_the_same_to_the_bit(tmp_path: Path) -> None:
    # Gurmukhi is in train and in test, Hebrew in validation, Braille in train.
    chosen = {"images_background": ("Hebrew", "Braille"), "images_evaluation": ("Gurmukhi",)}
    zips = {}
    for half, alphabets in chosen.items():
        prefixes = [f"{half}/{alphabet}/" for alphabet in alphabets]
        files = entries(DATA / "omniglot" / f"{half}.zip", *prefixes, count=1000)
        zips[f"{half}.zip"] = legacy.zipped(files)
    _equal("omniglot", tmp_path, zips, legacy.torchmeta_omniglot(zips))


@real
@pytest.mark.parametrize("name", ["cifar-fs", "fc100"])
def test_real_cifar_is_the_same_to_the_bit(name: DatasetName, tmp_path: Path) -> None:
    folder = DATA / "cifar100" / "cifar-100-python"
    files = {f"{folder.name}/{base}": (folder / base).read_bytes() for base in ("test", "meta")}
    _equal(name, tmp_path, files, legacy.torchmeta_cifar(files))


PIXELS = np.arange(20 * 9 * 9, dtype=np.uint8).reshape(20, 9, 9)


def _read(write: Callable[[Any], object], place: str = "a/x", **options: Any) -> dict[str, Any]:
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        root["a/b"] = PIXELS
        write(root)
    file.seek(0)
    return read_hdf5(file, "file", [place], (9, 9))


def _nothing(root: Any) -> None:
    pass


@pytest.mark.parametrize("options", [{}, {"libver": "latest"}, {"track_order": True}])
def test_an_array_is_found_by_its_name(options: dict[str, Any]) -> None:
    assert np.array_equal(_read(_nothing, "a/b", **options)["a/b"], PIXELS)
    for absent in ("a/c", "b/b", "a/c/d", "a/b/c"):
        assert _read(_nothing, absent) == {}
    with pytest.raises(DataError, match="no array"):
        _read(_nothing, "a")


def test_chunks_and_filters_are_the_library_s() -> None:
    for options in ({"chunks": (1, 9, 9)}, {"compression": "gzip", "shuffle": True}):
        write = partial(_packed, options)
        assert np.array_equal(_read(write)["a/x"], PIXELS)


def _packed(options: dict[str, Any], root: Any) -> None:
    root.create_dataset("a/x", data=PIXELS, **options)


def _virtual(root: Any) -> None:
    layout = h5py.VirtualLayout((20, 9, 9), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "a/b", (20, 9, 9))
    root.create_virtual_dataset("a/x", layout)


def _of(kind: Any, root: Any) -> None:
    root.create_dataset("a/x", (20, 9, 9), kind)


REFUSED: dict[str, tuple[Callable[[Any], object], str]] = {
    "link to a file": (
        lambda f: f["a"].__setitem__("x", h5py.ExternalLink("o.h5", "a")),
        "leads elsewhere",
    ),
    "link inside": (lambda f: f["a"].__setitem__("x", h5py.SoftLink("/a/b")), "leads elsewhere"),
    "link to nowhere": (lambda f: f["a"].__setitem__("x", h5py.SoftLink("/c")), "leads elsewhere"),
    "data elsewhere": (
        lambda f: f.create_dataset("a/x", (20, 9, 9), "u1", external=[("o", 0, 20 * 9 * 9)]),
        "in other files",
    ),
    "virtual": (_virtual, "in other files"),
    "no image": (lambda f: f.create_dataset("a/x", (0, 9, 9), "u1"), "expected"),
    "scalar": (lambda f: f.create_dataset("a/x", data=np.uint8(1)), "expected"),
    "no space": (lambda f: f.create_dataset("a/x", shape=None, dtype="u1"), "expected"),
    "other side": (lambda f: f.create_dataset("a/x", data=PIXELS[:, 1:]), "expected"),
    "other rank": (lambda f: f.create_dataset("a/x", data=PIXELS[0]), "expected"),
    "a type": (lambda f: f.__setitem__("a/x", np.dtype("u1")), "no array"),
}
REFUSED |= {
    f"of {kind}": (partial(_of, kind), "expected")
    for kind in ("i1", "i2", "f4", "?", "S1", [("a", "u1")], h5py.special_dtype(vlen=np.uint8))
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_elsewhere_or_something_else_is_refused(case: str) -> None:
    write, said = REFUSED[case]
    with pytest.raises(DataError, match=said):
        _read(write)


def test_links_on_the_way_are_held_to_the_same() -> None:
    for link in (h5py.SoftLink("/a"), h5py.ExternalLink("o.h5", "a")):
        with pytest.raises(DataError, match="leads elsewhere"):
            _read(partial(_linked, link), "g/b")


def _linked(link: Any, root: Any) -> None:
    root["g"] = link


def test_other_files_are_told(tmp_path: Path) -> None:
    files = legacy.torchmeta_omniglot(legacy.omniglot())
    page = {"data.hdf5": b"<!DOCTYPE html>"}
    assert "is an HTML page" in refusal("cifar-fs", tmp_path / "a", page)
    assert "no class of cifar-fs" in refusal("cifar-fs", tmp_path / "b", files)
    put(tmp_path, files)
    with pytest.raises(DataError, match="give the archive, or the folder that holds the file"):
        find_source(tmp_path / "data.hdf5", "omniglot")
    blank = np.zeros((21, 105, 105), np.uint8)
    both = {f"{half}/Braille/character01": blank for half in HALVES}
    said = refusal("omniglot", tmp_path / "c", {"data.hdf5": legacy.hdf5(both)})
    assert "in both halves" in said
    many = {f"{HALVES[0]}/Braille/character01": blank}
    said = refusal("omniglot", tmp_path / "d", {"data.hdf5": legacy.hdf5(many)})
    assert "up to 21 a class, more than published" in said


def test_without_h5py_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hasattr(hdf5, "h5py")  # imported when such a file is read
    content = legacy.hdf5({"a/x": PIXELS})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"pip install '\.\[hdf5\]'"):
        read_hdf5(io.BytesIO(content), "file", ["a/x"], (9, 9))
