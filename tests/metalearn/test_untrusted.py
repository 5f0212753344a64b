"""Files that attack, or are merely broken, end in a refusal and in nothing else."""

import io
import os
import pickle
import re
import resource
import subprocess
import sys
import tarfile
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.untrusted.archives import open_tree
from metalearn.data.untrusted.images import decode
from metalearn.data.untrusted.npz import read_npz
from metalearn.data.untrusted.unpickle import unpickle
from metalearn.errors import DataError
from tests.metalearn import fuzz, legacy


@pytest.fixture
def sentinel() -> Iterator[None]:
    """Fails a test in which code was run or a global imported by Python's unpickler."""
    with fuzz.listening() as heard:
        yield
    assert not heard


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
    found = unpickle(pickle.dumps(value, protocol=protocol), "file")
    for name in ("data", "fortran", "big", "long", "again"):
        expected = value[name]
        assert isinstance(expected, np.ndarray)
        assert found[name].dtype == expected.dtype
        assert np.array_equal(found[name], expected)
    assert found["labels"] == value["labels"]
    assert found["nested"] == (1, (2, 3), [b"bytes", "text\u20ac", b"x"])
    assert found["scalar"] == 7
    assert found["ordered"] == {"a": 1}
    assert found["default"] == {"b": [2]}
    assert found["range"] == range(3)
    assert found["set"] == {1, 2}


class Attack:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _attacks() -> dict[str, bytes]:
    target = "touch attacked"
    return {
        "os.system": pickle.dumps(Attack(os.system, target)),
        "eval": pickle.dumps(Attack(eval, target)),
        "exec inside data": pickle.dumps({"data": [Attack(exec, target)]}, protocol=2),
        "getattr": pickle.dumps(Attack(getattr, [], "append")),
        "codec": pickle.dumps(Attack(__import__("_codecs").encode, "x", "rot13")),
        "bytearray of a size": pickle.dumps(Attack(bytearray, 10**12)),
        "endless list": pickle.dumps(Attack(list, range(10**15))),
        "object array": pickle.dumps(np.array([{}, []], dtype=object)),
        "compound array": pickle.dumps(np.zeros(2, dtype=[("a", "O")])),
        "instance": pickle.dumps(ValueError("x")),
        "system by name": b"\x80\x02cposix\nsystem\n(S'touch attacked'\ntR.",
        "INST": b"\x80\x02(S'touch attacked'\nios\nsystem\n.",
        "OBJ": b"\x80\x02(cos\nsystem\nS'touch attacked'\no.",
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "extension": b"\x80\x02\x82\x01.",
        "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0ef2py.os.system\x93.",
        "state of a callee": b"\x80\x02c__builtin__\nlist\n}U\x04calls}sb.",
        "huge array": b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n"
        b"(K\x00tU\x01btR(K\x01(J\xff\xff\xff\x7fJ\xff\xff\xff\x7ftcnumpy\ndtype\n(U\x02u1K\x00K\x01tR\x89U\x01xtb.",
        "ndarray by itself": b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85tR.",
        "string of announced size": b"\x80\x02T\xff\xff\xff\x7fabc.",
        "bytes of announced size": b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.",
        "set flood": b"\x80\x04" + b"\x8f" * 2**18 + b".",
        "copy flood": b"\x80\x02]("
        + b"N" * 10**5
        + b"eq\x00"
        + b"c__builtin__\nlist\nh\x00\x85R" * 10**4
        + b".",
        "colliding keys": pickle.dumps({i * (2**61 - 1): 0 for i in range(10**4)}),
        "deep key": b"\x80\x02}" + b"N" + b"\x85" * 2 * 10**5 + b"Ns.",
        "nothing": b"\x80\x02.",
        "empty stack": b"\x80\x02R.",
    }


ATTACKS = _attacks()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.usefixtures("sentinel")
def test_attacks_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="that is refused|truncated or damaged"):
        unpickle(ATTACKS[name], "file")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "most"),
    [
        # Budget: (bytes / 4 + 1024) containers. A set weighs 4, a tuple 1; both take a byte here.
        ("set flood", (2**18 / 4 + 1024) / 4),
        ("deep key", 2 * 10**5 / 4 + 1024),
        # Budget: 4 times the bytes, 10^5 to begin with and 23 a copy; a copy has 10^5 elements.
        ("copy flood", 10**5 + 23 * 4 * (10**5 + 23 * 10**4) / 10**5),
    ],
)
def test_floods_end_when_the_budget_does(name: str, most: float) -> None:
    with pytest.raises(DataError, match="it (builds|copies) more") as refused:
        unpickle(ATTACKS[name], "file")
    found = re.search(r"\(byte (\d+) of", str(refused.value))
    assert found is not None
    assert int(found[1]) <= most + 30  # the header, and the opcode that was refused


@pytest.mark.usefixtures("sentinel")
def test_the_refusal_names_what_was_asked_for() -> None:
    with pytest.raises(DataError, match=r"asks for '(posix|nt)\.system'.*source you trust"):
        unpickle(ATTACKS["os.system"], "file")
    with pytest.raises(DataError, match="array of Python objects"):
        unpickle(ATTACKS["object array"], "file")


def test_a_memo_index_costs_no_memory() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    bomb = b"\x80\x02Nr\xff\xff\xff\xff."
    assert unpickle(bomb, "file") is None
    # The same file makes Python's own unpickler ask for 2^33 pointers at once.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17


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


def test_bombs_are_refused(tmp_path: Path) -> None:
    size = 2**27
    content = bytes(size)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train", content)
    with pytest.raises(DataError, match="bomb"):
        open_tree(tmp_path / "a.zip")
    info = tarfile.TarInfo("train")
    info.size = size
    with pytest.raises(DataError, match="bomb"):
        open_tree(write_tar(tmp_path / "a.tar.gz", info, mode="w:gz"))
    with pytest.raises(DataError, match="bomb"):
        read_npz(legacy.npz(images=np.frombuffer(content, np.uint8)), "file")
    with pytest.raises(DataError, match="bomb"):
        decode(legacy.encoded(np.zeros((6000, 6000), bool)), "file", side=28, channels=1)
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("train", b"x")
    with pytest.raises(DataError, match="another method"):
        open_tree(tmp_path / "b.zip")


def test_an_npz_of_objects_is_refused() -> None:
    file = io.BytesIO()
    np.savez(file, features=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="unpickling"):
        read_npz(file.getvalue(), "file")


def test_mutated_files_end_in_typed_refusals() -> None:
    command = [sys.executable, "-m", "tests.metalearn.fuzz", "--files=2000"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2000 mutated files" in done.stdout


def test_the_fuzzer_notices_what_it_looks_for() -> None:
    def broken() -> None:
        raise KeyError("x")

    def refusing() -> None:
        raise DataError("x")

    def endless() -> None:
        while True:
            pass

    assert fuzz.judge(refusing, patience=5) == fuzz.REFUSED
    assert fuzz.judge(lambda: None, patience=5) == fuzz.READ
    assert fuzz.judge(broken, patience=5) == "KeyError: 'x'"
    assert fuzz.judge(endless, patience=0.1).startswith("more than 0.1 s")
    assert "os.system" in fuzz.judge(lambda: os.system("true") and None, patience=5)
