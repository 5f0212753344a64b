"""Files that attack, or are merely broken, end in a refusal and in nothing else."""

import io
import os
import pickle
import random
import resource
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metalearn.data.archives import open_tree
from metalearn.data.arrays import read_npz
from metalearn.data.images import decode
from metalearn.data.prepare import find_source, join
from metalearn.data.store import open_store
from metalearn.data.unpickle import unpickle
from metalearn.errors import DataError, MetalearnError
from tests.metalearn import legacy
from tests.metalearn.test_prepare import FORMS, put, stored

FORBIDDEN = {"os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn"}
FORBIDDEN |= {"pickle.find_class", "exec", "socket.connect", "ctypes.dlopen"}
_heard: list[str] = []
_listening = False


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if _listening and event in FORBIDDEN:
        _heard.append(event)


@pytest.fixture
def sentinel() -> Iterator[None]:
    """Fails a test in which code was run or a global imported by Python's unpickler."""
    global _listening
    sys.addaudithook(_listen)
    _heard.clear()
    _listening = True
    yield
    _listening = False
    assert not _heard


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
        "set flood": b"\x80\x04" + b"\x8f" * 2**21 + b".",
        "copy flood": b"\x80\x02]("
        + b"N" * 10**5
        + b"eq\x00"
        + b"c__builtin__\nlist\nh\x00\x85R" * 10**4
        + b".",
        "deep key": b"\x80\x02}" + b"N" + b"\x85" * 10**6 + b"Ns.",
        "nothing": b"\x80\x02.",
        "empty stack": b"\x80\x02R.",
    }


ATTACKS = _attacks()


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.usefixtures("sentinel")
def test_attacks_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    started = time.perf_counter()
    with pytest.raises(DataError, match="that is refused|truncated or damaged"):
        unpickle(ATTACKS[name], "file")
    assert time.perf_counter() - started < 5
    assert not list(tmp_path.iterdir())


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


def mutate(content: bytes, draw: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        # Half of the time near an end, where the headers are.
        span = len(data) if draw.random() < 0.5 else min(300, len(data))
        at = draw.randrange(span) if draw.random() < 0.5 else len(data) - 1 - draw.randrange(span)
        match draw.randrange(6):
            case 0:
                data[at] ^= 1 << draw.randrange(8)
            case 1:
                data[at] = draw.randrange(256)
            case 2:
                data[at : at + 4] = draw.choice((b"\xff" * 4, b"\xff\xff\xff\x7f", bytes(4)))
            case 3:
                del data[at : at + draw.randrange(1, 50)]
            case 4:
                data[at:at] = data[at : at + draw.randrange(1, 50)]
            case _:
                del data[at:]
        if not data:
            break
    return bytes(data)


MUTANTS = 2000


@pytest.mark.usefixtures("sentinel")
def test_mutated_files_end_in_typed_refusals(tmp_path: Path) -> None:
    draw = random.Random(0)
    forms = {form: (name, files()) for form, (name, files, _, _) in FORMS.items()}
    tar = legacy.tarred(legacy.official_folder())
    forms["official tar.gz"] = ("cifar-fs", {"c.tar.gz": tar})
    forms["tar"] = ("cifar-fs", {"c.tar": legacy.tarred(legacy.official_folder(), "w")})
    for form, (_, files) in forms.items():
        put(tmp_path / form, files)
    put(tmp_path / "s", legacy.folders("cifar-fs"))
    store = stored("cifar-fs", tmp_path / "s").path
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    names = [*forms, "store"]
    for number in range(MUTANTS):
        form = names[number % len(names)]
        folder = store if form == "store" else tmp_path / form
        path = draw.choice(sorted(p for p in folder.rglob("*") if p.is_file()))
        whole = path.read_bytes()
        path.write_bytes(mutate(whole, draw))
        started = time.perf_counter()
        try:
            if form == "store":
                for split in ("train", "test"):
                    open_store(store).split(split).pool()  # type: ignore[arg-type]
            else:
                single = form in ("official tar.gz", "tar", "cifar100.zip")
                source = find_source(path if single else folder, forms[form][0])
                for parts in join([source]).values():
                    for part in parts:
                        part.load()
        except MetalearnError as error:
            assert "TypeCheckError" not in str(error)  # a mistake of ours, not of the file
            refused += 1
        finally:
            path.write_bytes(whole)
        assert time.perf_counter() - started < 5, (form, number)
    # ru_maxrss counts KiB on Linux.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20
    assert refused > MUTANTS / 4
