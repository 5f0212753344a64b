"""torchmeta's HDF5 files give what the official ones do; those that attack are refused."""

import io
import resource
import struct
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from metalearn.data.prepare import find_source
from metalearn.data.published import SPLITS, DatasetName
from metalearn.data.readers.omniglot import HALVES
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


def _written(write: Callable[[Any], object], **options: Any) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        root["a/b"] = PIXELS
        write(root)
    return file.getvalue()


def _read(content: bytes, place: str = "a/x") -> dict[str, Any]:
    return read_hdf5(content, "file", [place], (9, 9))


def _nothing(root: Any) -> None:
    pass


def test_an_array_is_a_view_of_the_file() -> None:
    content = _written(_nothing)
    found = _read(content, "a/b")["a/b"]
    assert np.array_equal(found, PIXELS)
    assert not found.flags.owndata
    for absent in ("a/c", "b/b", "a/c/d"):
        assert _read(content, absent) == {}
    for other in ("a", "a/b/c"):  # a group for an array, an array for a group
        with pytest.raises(DataError, match="in a form"):
            _read(content, other)


def _virtual(root: Any) -> None:
    layout = h5py.VirtualLayout((20, 9, 9), "u1")
    layout[:] = h5py.VirtualSource("other.h5", "a/b", (20, 9, 9))
    root.create_virtual_dataset("a/x", layout)


def _compact(root: Any) -> None:
    options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options.set_layout(h5py.h5d.COMPACT)
    space = h5py.h5s.create_simple((20, 9, 9))
    h5py.h5d.create(root["a"].id, b"x", h5py.h5t.STD_U8LE, space, options).write(
        h5py.h5s.ALL, h5py.h5s.ALL, PIXELS
    )


def _of(kind: Any, root: Any) -> None:
    root.create_dataset("a/x", (20, 9, 9), kind)


def _typed(root: Any) -> None:
    root["t"] = np.dtype("u1")
    root.create_dataset("a/x", dtype=root["t"], data=PIXELS)


HOSTILE: dict[str, tuple[Callable[[Any], object], str]] = {
    "link to a file": (lambda f: f["a"].__setitem__("x", h5py.ExternalLink("o.h5", "a")), "links"),
    "link inside": (lambda f: f["a"].__setitem__("x", h5py.SoftLink("/a/b")), "leads elsewhere"),
    "link to nowhere": (lambda f: f["a"].__setitem__("x", h5py.SoftLink("/c")), "leads elsewhere"),
    "data elsewhere": (
        lambda f: f.create_dataset(
            "a/x", (20, 9, 9), "u1", external=[("/etc/passwd", 0, 20 * 9 * 9)]
        ),
        "other files",
    ),
    "virtual": (_virtual, "put together"),
    "bomb": (
        lambda f: f.create_dataset(
            "a/x", (2**24, 9, 9), "u1", chunks=(2**16, 9, 9), compression="gzip"
        ),
        "filters",
    ),
    "chunks": (lambda f: f.create_dataset("a/x", data=PIXELS, chunks=(1, 9, 9)), "in chunks"),
    "compact": (_compact, "in chunks"),
    "never written": (lambda f: f.create_dataset("a/x", (10**9, 9, 9), "u1"), "never written"),
    "no image": (lambda f: f.create_dataset("a/x", (0, 9, 9), "u1"), "expected"),
    "scalar": (lambda f: f.create_dataset("a/x", data=np.uint8(1)), "expected"),
    "no space": (lambda f: f.create_dataset("a/x", shape=None, dtype="u1"), "expected"),
    "other side": (lambda f: f.create_dataset("a/x", data=PIXELS[:, 1:]), "expected"),
    "other rank": (lambda f: f.create_dataset("a/x", data=PIXELS[0]), "expected"),
    "type in the file": (_typed, "in a form"),
    "a type": (lambda f: f.__setitem__("a/x", np.dtype("u1")), "another thing"),
    "old links in new form": (lambda f: f.create_group("a/x", track_order=True), "in a form"),
}
HOSTILE |= {
    f"of {kind}": (partial(_of, kind), "not of bytes")
    for kind in ("i1", "i2", "f4", "?", "S1", [("a", "u1")], h5py.special_dtype(vlen=np.uint8))
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_what_torchmeta_does_not_write_is_refused(attack: str) -> None:
    write, said = HOSTILE[attack]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=said):
        _read(_written(write))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # KiB


def test_groups_on_the_way_are_held_to_the_same() -> None:
    with pytest.raises(DataError, match="leads elsewhere"):
        _read(_written(lambda f: f.__setitem__("g", h5py.SoftLink("/a"))), "g/b")
    with pytest.raises(DataError, match="the root with links"):
        _read(_written(lambda f: f.__setitem__("g", h5py.ExternalLink("o.h5", "a"))), "g/b")
    with pytest.raises(DataError, match="another version"):
        _read(_written(_nothing, libver="latest"), "a/b")
    with pytest.raises(DataError, match="the root with links"):
        _read(_written(_nothing, track_order=True), "a/b")


def test_headers_are_read_to_their_ends() -> None:
    bomb, said = HOSTILE["bomb"]
    content = bytearray(_written(bomb))
    with h5py.File(io.BytesIO(content)) as root:
        group = root["a"].id
        at = group.links.get_info(b"x").u
    content[at + 2 : at + 4] = bytes(2)  # announces no message
    with pytest.raises(DataError, match=said):
        _read(bytes(content))
    content[at + 16 : at + 40] = struct.pack("<HHB3xQQ", 0x10, 16, 0, at + 16, 24)  # goes on here
    with pytest.raises(DataError, match=said):
        _read(bytes(content))


def test_every_truncation_is_refused() -> None:
    content = _written(_nothing)
    for end in [*range(0, len(content), 97), len(content) - 1]:
        with pytest.raises(DataError):
            _read(content[:end], "a/b")


def test_an_array_is_no_longer_than_its_file() -> None:
    content = _written(_nothing)
    start = content.index(PIXELS.tobytes())
    longest = (len(content) - start) // 81

    def announcing(count: int) -> bytes:
        shape, place = struct.pack("<QQQ", 20, 9, 9), struct.pack("<QQ", start, 20 * 81)
        assert (content.count(shape), content.count(place)) == (2, 1)  # the most it may grow to
        bent = content.replace(shape, struct.pack("<QQQ", count, 9, 9))
        return bent.replace(place, struct.pack("<QQ", start, count * 81))

    assert len(_read(announcing(longest), "a/b")["a/b"]) == longest
    for count in (0, longest + 1, 2**40):
        with pytest.raises(DataError, match="truncated or damaged"):
            _read(announcing(count), "a/b")


def _endless() -> bytes:
    """A group whose tree of links has 32^8 leaves, all of them one: listing it takes centuries."""
    content = bytearray(_written(lambda f: [f.create_dataset(f"a/{k}", data=0) for k in range(40)]))
    trees = [at for at in range(len(content)) if content[at : at + 4] == b"TREE"]
    assert len(trees) == 2
    size = 24 + 33 * 8 + 32 * 8
    top, below = trees[1], len(content)
    content += content[top : top + size]
    none = 2**64 - 1
    for level in range(1, 9):
        node = b"TREE" + struct.pack("<BBHQQ", 0, level, 32, none, none)
        node += struct.pack("<QQ", 0, below) * 32 + struct.pack("<Q", 0)
        if level == 8:
            content[top : top + size] = node
        else:
            below = len(content)
            content += node
    content[40:48] = struct.pack("<Q", len(content))  # where the file ends
    return bytes(content)


def test_a_tree_of_links_is_never_listed() -> None:
    assert _read(_endless(), "a/zz") == {}


def test_other_files_are_told(tmp_path: Path) -> None:
    files = legacy.torchmeta_omniglot(legacy.omniglot())
    page = {"data.hdf5": b"<!DOCTYPE html>"}
    assert "is an HTML page" in refusal("cifar-fs", tmp_path / "a", page)
    assert "no class of cifar-fs" in refusal("cifar-fs", tmp_path / "b", files)
    put(tmp_path, files)
    with pytest.raises(DataError, match="give the folder that holds it"):
        find_source(tmp_path / "data.hdf5", "omniglot")
    blank = np.zeros((21, 105, 105), np.uint8)
    both = {f"{half}/Braille/character01": blank for half in HALVES}
    said = refusal("omniglot", tmp_path / "c", {"data.hdf5": legacy.hdf5(both)})
    assert "in both halves" in said
    many = {f"{HALVES[0]}/Braille/character01": blank}
    said = refusal("omniglot", tmp_path / "d", {"data.hdf5": legacy.hdf5(many)})
    assert "up to 21 a class, more than published" in said


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not hasattr(hdf5, "h5py")  # imported when such a file is read
    files = legacy.torchmeta_omniglot(legacy.omniglot())
    monkeypatch.setitem(sys.modules, "h5py", None)
    assert "pip install 'hypergradients[hdf5]'" in refusal("omniglot", tmp_path, files)
