"""Files that ask for more than data, or are broken, end in a typed error and in nothing else."""

import _codecs
import io
import os
import pickle
import sys
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.untrusted import archives, images
from metalearn.data.untrusted.archives import open_tree
from metalearn.data.untrusted.images import decode
from metalearn.data.untrusted.npz import read_npz
from metalearn.data.untrusted.pickles import unpickle
from metalearn.errors import DataError
from tests.metalearn import fuzz, legacy


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_is_read_as_it_was_written(protocol: int) -> None:
    value = {
        "data": np.arange(24, dtype=np.uint8).reshape(2, 3, 4),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "labels": [1, -2, 300, 70000, 2**40, True, None, 2.5],
        "nested": (1, (2, 3), [b"bytes", "text\u20ac", bytearray(b"x")]),
        "scalar": np.int64(7),
        "ordered": OrderedDict(a=1),
        "default": defaultdict(list, b=[2]),
        "range": range(3),
        "set": {1, 2},
        "long": np.zeros(100_000, np.uint8),
    }
    value["again"] = value["data"]
    found = unpickle(io.BytesIO(pickle.dumps(value, protocol=protocol)), "file")
    for name in ("data", "fortran", "big", "long", "again"):
        expected = value[name]
        assert isinstance(expected, np.ndarray)
        assert found[name].dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert np.array_equal(found[name], expected)
    assert found["labels"] == value["labels"]
    assert found["nested"] == (1, (2, 3), [b"bytes", "text\u20ac", b"x"])
    assert found["scalar"] == 7
    assert found["ordered"] == {"a": 1}
    assert found["default"] == {"b": [2]}
    assert found["range"] == range(3)
    assert found["set"] == {1, 2}


class Call:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


REFUSED: dict[str, tuple[bytes, str]] = {
    "a class": (pickle.dumps(Fraction(1, 2)), "asks for 'fractions.Fraction'"),
    "an exception": (pickle.dumps(ValueError("x")), "asks for 'builtins.ValueError'"),
    "a function": (pickle.dumps(Call(os.getcwd)), r"asks for '(posix|nt)\.getcwd'"),
    "a builtin": (
        pickle.dumps({"a": [Call(len, "a")]}, protocol=2),
        r"asks for '__builtin__\.len'",
    ),
    "by name, of Python 2": (b"\x80\x02cos\ngetcwd\n)R.", r"asks for 'os\.getcwd'"),
    "INST": (b"\x80\x02(ios\ngetcwd\n.", r"asks for 'os\.getcwd'"),
    "OBJ": (b"\x80\x02(cos\ngetcwd\no.", r"asks for 'os\.getcwd'"),
    "dotted name": (b"\x80\x04\x8c\x05numpy\x8c\x08f2py.sys\x93.", r"asks for 'numpy\.f2py\.sys'"),
    "other codec": (pickle.dumps(Call(_codecs.encode, "x", "rot13")), "encodes with 'rot13'"),
    "objects": (pickle.dumps(np.array([{}, []], dtype=object)), "array of type 'O8'"),
    "compound": (pickle.dumps(np.zeros(2, dtype=[("a", "u1")])), "array of type 'V1'"),
    "dates": (pickle.dumps(np.zeros(2, dtype="M8[s]")), "array of type 'M8'"),
    "persistent": (b"\x80\x02X\x01\x00\x00\x00aQ.", "persistent"),
    "extension": (b"\x80\x02\x82\x01.", "extension code"),
    "too short for its shape": (
        pickle.dumps(np.zeros(9, np.uint8)).replace(b"K\t\x85", b"K\x08\x85"),
        "can't be read as a pickle",
    ),
    "nothing": (b"\x80\x02.", "can't be read as a pickle"),
    "truncated": (pickle.dumps([1, 2, 3])[:-3], "truncated or damaged"),
    "empty": (b"", "is an empty file"),
    "page": (b"<!DOCTYPE html>", "is an HTML page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_pickles_of_more_than_data_are_refused(name: str) -> None:
    content, said = REFUSED[name]
    with fuzz.listening() as heard, pytest.raises(DataError, match=said):
        unpickle(io.BytesIO(content), "file")
    assert not heard


def test_a_dtype_takes_its_order_from_a_file_and_nothing_else() -> None:
    written = pickle.dumps(np.arange(3, dtype=">u2"), protocol=2)
    swapped = written.replace(b"X\x01\x00\x00\x00>", b"X\x01\x00\x00\x00<")
    assert written != swapped
    assert unpickle(io.BytesIO(swapped), "file").tolist() == [0, 256, 512]
    state = b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
    assert state in written
    other = written.replace(state, b"NNNK\x01K\x01K\x00t")  # another size and alignment
    found = unpickle(io.BytesIO(other), "file")
    assert found.itemsize == 2
    assert found.tolist() == [0, 1, 2]


def write_tar(path: Path, *infos: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info in infos:
            archive.addfile(info, io.BytesIO(bytes(info.size)))
    return path


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "C:\\x", "..\\x"])
def test_paths_that_leave_are_refused(name: str, tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo(name), b"x")
    with pytest.raises(DataError, match="would leave its folder"):
        open_tree(file)
    with pytest.raises(DataError, match="would leave its folder"):
        open_tree(write_tar(tmp_path / "a.tar", tarfile.TarInfo(name)))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_are_refused(kind: bytes, mode: str, tmp_path: Path) -> None:
    info = tarfile.TarInfo("train")
    info.type, info.linkname = kind, "/etc/passwd"
    with pytest.raises(DataError, match="link or device"):
        open_tree(write_tar(tmp_path / "a.tar", info, mode=mode))
    link = zipfile.ZipInfo("train")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="link or device"):
        open_tree(tmp_path / "a.zip")


def test_what_unpacks_to_far_more_than_its_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ordinary files, and limits that are tiny."""
    content = bytes(10_000)
    whole, packed = tmp_path / "a.zip", tmp_path / "a.tar.gz"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train", content)
    info = tarfile.TarInfo("train")
    info.size = len(content)
    write_tar(packed, info, mode="w:gz")
    npz = legacy.npz(images=np.frombuffer(content, np.uint8))
    image = legacy.encoded(np.zeros((60, 60), bool))

    def read_all() -> list[Callable[[], object]]:
        return [
            lambda: open_tree(whole),
            lambda: open_tree(packed),
            lambda: read_npz(io.BytesIO(npz), "file"),
            lambda: decode(image, "file", side=28, channels=1),
        ]

    for read in read_all():
        read()
    monkeypatch.setattr(archives, "FREE", 1000)
    monkeypatch.setattr(archives, "RATIO", 2)
    monkeypatch.setattr(images, "PIXELS", 1000)
    for read in read_all():
        with pytest.raises(DataError, match="bomb"):
            read()
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("train", b"x")
    with pytest.raises(DataError, match="another method"):
        open_tree(tmp_path / "b.zip")


@pytest.mark.parametrize("side", [6_000, 10_000, 50_000])  # Pillow warns of the second by itself
def test_a_picture_too_large_for_pillow_ends_in_the_same_words(side: int) -> None:
    head = f"P6 {side} {side} 255\n".encode()  # and refuses the third, of which no pixel is there
    with pytest.raises(DataError, match=rf"file has .* {images.PIXELS}.*bomb. Remove it, or make"):
        decode(head, "file", side=28, channels=1)


def test_members_are_whole(tmp_path: Path) -> None:
    file = tmp_path / "a.tar"
    info = tarfile.TarInfo("train")
    info.size = 10_000
    write_tar(file, info)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(DataError, match="truncated"):
        open_tree(file).read("train")


def test_an_npz_of_objects_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, features=np.array([{}], dtype=object))
    file.seek(0)
    with pytest.raises(DataError, match="Python objects"):
        read_npz(file, "file")


def test_mutated_files_end_in_typed_refusals(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Some seven of each form; `results/mutated-files.json` holds what came of 2,000."""
    monkeypatch.setattr(sys, "argv", ["fuzz", "--files=300"])
    status = fuzz.main()
    said = capsys.readouterr().out
    assert status == 0, said
    assert "300 mutated files" in said


def test_the_fuzzer_notices_what_it_looks_for() -> None:
    def broken() -> None:
        raise KeyError("x")

    def refusing() -> None:
        raise DataError("x")

    assert fuzz.judge(refusing) == fuzz.REFUSED
    assert fuzz.judge(lambda: None) == fuzz.READ
    assert fuzz.judge(broken) == "KeyError: 'x'"
    assert "os.system" in fuzz.judge(lambda: os.system("true") and None)
