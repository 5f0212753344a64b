"""Small files in every form that data sets come in (docs/data.md)."""

import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from PIL import Image, ImageOps

from metalearn.data.published import DatasetName, fine_names, published, superclasses
from metalearn.data.untrusted.pickles import unpickle

DATA = Path(__file__).parents[3] / "shared" / "data"
DRAW = np.random.default_rng(0)


def python2(value: Any) -> bytes:
    """A pickle of protocol 2 as Python 2 wrote it: byte strings, and numpy's old names."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: Any) -> bytes:
    if isinstance(value, dict):
        items = b"".join(_python2(k) + _python2(v) for k, v in value.items())
        return b"}(" + items + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_python2, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(_python2, value)) + b"t"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, np.ndarray):
        kind = _python2(value.dtype.str[1:])
        dtype = b"cnumpy\ndtype\n" + b"(" + kind + b"K\x00K\x01tR"
        state = (
            b"(K\x03"
            + _python2(value.dtype.str[0])
            + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        start = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        shape = _python2(value.shape)
        return (
            start + b"(K\x01" + shape + dtype + state + b"\x89" + _python2(value.tobytes()) + b"tb"
        )
    raw = value.encode() if isinstance(value, str) else value
    assert isinstance(raw, bytes)
    return b"T" + struct.pack("<I", len(raw)) + raw


def images(count: int, side: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Images that differ and shrink well: a colour each, with a corner, higher than wide."""
    found = np.empty((count, side, side, 3), np.uint8)
    found[:] = DRAW.integers(0, 256, (count, 1, 1, 3))
    found[:, : side // 2, : side // 4] = DRAW.integers(0, 256, (count, 1, 1, 3))
    return found


def encoded(pixels: np.ndarray[Any, Any], form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def npz(**arrays: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def zipped(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


LABELS = [7, 3, 7, 3]
SPLITS = ("train", "val", "test")


def classes(name: DatasetName, count: int = 2) -> dict[str, tuple[str, ...]]:
    names = published(name).names
    assert names is not None
    found = zip(SPLITS, names.values(), strict=True)
    return {split: values[:count] for split, values in found}


def cifar() -> dict[str, bytes]:
    """One image of each class in train, one in test."""
    batches = {
        name: {
            "filenames": ["a.png"] * 100,
            "batch_label": name,
            "fine_labels": list(range(100)),
            "coarse_labels": [0] * 100,
            "data": images(100, 32).transpose(0, 3, 1, 2).reshape(100, 3072),
        }
        for name in ("train", "test")
    }
    meta = {"fine_label_names": list(fine_names()), "coarse_label_names": ["x"] * 20}
    return {name: python2(value) for name, value in (batches | {"meta": meta}).items()}


def official_folder() -> dict[str, bytes]:
    return {f"cifar-100-python/{name}": content for name, content in cifar().items()}


def official_tar() -> dict[str, bytes]:
    return {"cifar-100-python.tar.gz": tarred(official_folder())}


def cifar_zip() -> dict[str, bytes]:
    files = {
        f"cifar100/data/{name}/{number}.png": encoded(images(1, 32)[0])
        for names in classes("cifar-fs").values()
        for name in names
        for number in range(2)
    }
    whole = classes("cifar-fs", 64)
    files |= {
        f"cifar100/splits/bertinetto/{split}.txt": "\n".join(names).encode()
        for split, names in whole.items()
    }
    return {"cifar100.zip": zipped(files)}


def metaoptnet(stem: str) -> dict[str, bytes]:
    return {
        f"{stem}_{split}.pickle": python2({"data": images(4, 32), "labels": LABELS})
        for split in SPLITS
    }


def gidaris() -> dict[str, bytes]:
    files = {}
    for split, names in classes("miniimagenet").items():
        label = dict(zip((3, 7), names, strict=True))
        value = {
            "data": images(4, 84),
            "labels": LABELS,
            "catname2label": {name: number for number, name in label.items()},
            "label2catname": label,
        }
        part = "train_phase_train" if split == "train" else split
        files[f"miniImageNet_category_split_{part}.pickle"] = python2(value)
    return files


def cache(middle: str) -> dict[str, bytes]:
    files = {}
    for split, names in classes("miniimagenet").items():
        rows = {names[0]: [0, 2], names[1]: np.array([3, 1])}
        value = {"image_data": images(4, 84), "class_dict": rows}
        stem = middle if split == "val" else split
        files[f"mini-imagenet-cache-{stem}.pkl"] = python2(value)
    return files


def tadam(side: int) -> dict[str, bytes]:
    return {
        f"few-shot-{split}.npz": npz(features=images(4, side), targets=np.array(LABELS))
        for split in SPLITS
    }


def tiered_bgr() -> dict[str, bytes]:
    files = {}
    for split in SPLITS:
        files[f"{split}_images.npz"] = npz(images=images(4, 84))
        files[f"{split}_labels.pkl"] = python2({"labels": LABELS})
    return files


def tiered_png() -> dict[str, bytes]:
    files = {}
    for split in SPLITS:
        streams = [np.frombuffer(encoded(image), np.uint8) for image in images(4, 84)]
        streams[1] = streams[1][:, None]
        labels = {
            "label_specific": np.array([1, 0, 1, 0]),
            "label_general": np.array([0, 0, 0, 0]),
            "label_specific_str": [f"{split} a", f"{split} b"],
            "label_general_str": ["c"],
        }
        files[f"{split}_images_png.pkl"] = python2(streams)
        files[f"{split}_labels.pkl"] = python2(labels)
    return files


def csv_files(header: str = "filename,label") -> dict[str, bytes]:
    files = {}
    for split, names in classes("miniimagenet").items():
        rows = []
        for name in names:
            for number in range(2):
                file = f"{name}{number:08d}.jpg"
                files[f"images/{file}"] = encoded(images(1, 90)[0], "JPEG")
                pair = (file, name) if header.startswith("filename") else (name, file)
                rows.append(",".join(pair))
        files[f"{split}.csv"] = "\n".join([header, *rows, ""]).encode()
    return files


def easyfsl() -> dict[str, bytes]:
    return csv_files("class_name,image_name")


def easyfsl_json() -> dict[str, bytes]:
    """Roots begin above the folder that is given; names are words, folders are WNIDs."""
    files = {}
    for split, names in classes("tieredimagenet").items():
        roots = [f"data/tiered/images/{name}" for name in names]
        lists = {"class_names": [f"word {n}" for n in names], "class_roots": roots}
        files[f"tiered/{split}.json"] = json.dumps(lists).encode()
        for name in names:
            for number in range(2):
                files[f"tiered/images/{name}/{number}.jpg"] = encoded(images(1, 90)[0], "JPEG")
    return files


def folders(name: DatasetName) -> dict[str, bytes]:
    """One of the images is grey."""
    files = {}
    for split, names in classes(name).items():
        for each in names:
            files[f"{split}/{each}/1.png"] = encoded(images(1, 40)[0])
            files[f"{split}/{each}/2.jpg"] = encoded(images(1, 40)[0, ..., 0], "JPEG")
    return files


def omniglot() -> dict[str, bytes]:
    """One whole class of each split, in both archives."""
    files: dict[str, dict[str, bytes]] = {"images_background": {}, "images_evaluation": {}}
    halves = [*files.items(), ("images_background", files["images_background"])]
    for number, names in enumerate(classes("omniglot", 1).values()):
        half, content = halves[number]
        left = 30 + 5 * number  # another drawing in each split
        for drawer in range(1, 21):
            paper = np.ones((105, 105), bool)
            paper[drawer : drawer + 10, left : left + 30] = False
            content[f"{half}/{names[0]}/0001_{drawer:02d}.png"] = encoded(paper)
    return {f"{half}.zip": zipped(content) for half, content in files.items()}


def hdf5(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        for place, array in arrays.items():
            root.create_dataset(place, data=array)
    return file.getvalue()


def torchmeta_omniglot(zips: Mapping[str, bytes]) -> dict[str, bytes]:
    """As torchmeta makes it of the official archives, but for the order, which it leaves open."""
    found: dict[str, list[np.ndarray[Any, Any]]] = {}
    for content in zips.values():
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in sorted(n for n in archive.namelist() if n.endswith(".png")):
                drawing = ImageOps.invert(Image.open(archive.open(name)).convert("L"))
                found.setdefault(name.rpartition("/")[0], []).append(np.asarray(drawing))
    return {"data.hdf5": hdf5({place: np.stack(drawings) for place, drawings in found.items()})}


def torchmeta_cifar(folder: Mapping[str, bytes]) -> dict[str, bytes]:
    """As torchmeta makes it of the official pickles."""
    halves = [f for half in ("train", "test") for f in folder if f.endswith(f"/{half}")]
    batches = [unpickle(io.BytesIO(folder[file]), file) for file in halves]
    pixels = np.concatenate([batch[b"data"] for batch in batches])
    labels = np.concatenate([batch[b"fine_labels"] for batch in batches])
    whole = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    arrays = {
        f"{superclasses()[name]}/{name}": whole[labels == label]
        for label, name in enumerate(fine_names())
    }
    return {"data.hdf5": hdf5(arrays)}


def torchmeta_mini(pickles: Mapping[str, bytes]) -> dict[str, bytes]:
    """As torchmeta makes it of the cache pickles."""
    files = {}
    for split in SPLITS:
        value = unpickle(io.BytesIO(pickles[f"mini-imagenet-cache-{split}.pkl"]), split)
        classes = {k.decode(): value[b"image_data"][v] for k, v in value[b"class_dict"].items()}
        files[f"{split}_data.hdf5"] = hdf5({f"datasets/{k}": v for k, v in classes.items()})
    return files


Files = Callable[[], dict[str, bytes]]
# Data set, files, images of one class, whether classes have their names.
FORMS: dict[str, tuple[DatasetName, Files, int, bool]] = {
    "omniglot zips": ("omniglot", omniglot, 20, True),
    "cifar folder": ("cifar-fs", official_folder, 2, True),
    "fc100 from cifar": ("fc100", official_folder, 2, True),
    "cifar100.zip": ("cifar-fs", cifar_zip, 2, True),
    "CIFAR_FS pickles": ("cifar-fs", partial(metaoptnet, "CIFAR_FS"), 2, False),
    "FC100 pickles": ("fc100", partial(metaoptnet, "FC100"), 2, False),
    "gidaris": ("miniimagenet", gidaris, 2, True),
    "cache": ("miniimagenet", partial(cache, "val"), 2, True),
    "cache, learn2learn": ("miniimagenet", partial(cache, "validation"), 2, True),
    "tadam": ("miniimagenet", partial(tadam, 84), 2, False),
    "tadam fc100": ("fc100", partial(tadam, 32), 2, False),
    "tiered bgr": ("tieredimagenet", tiered_bgr, 2, False),
    "tiered png": ("tieredimagenet", tiered_png, 2, False),
    "csv": ("miniimagenet", csv_files, 2, True),
    "easyfsl csv": ("miniimagenet", easyfsl, 2, True),
    "easyfsl json": ("tieredimagenet", easyfsl_json, 2, True),
    "folders": ("tieredimagenet", partial(folders, "tieredimagenet"), 2, True),
    "torchmeta omniglot": ("omniglot", lambda: torchmeta_omniglot(omniglot()), 20, True),
    "torchmeta cifar-fs": ("cifar-fs", lambda: torchmeta_cifar(official_folder()), 2, True),
    "torchmeta fc100": ("fc100", lambda: torchmeta_cifar(official_folder()), 2, True),
    "torchmeta mini": ("miniimagenet", lambda: torchmeta_mini(cache("val")), 2, True),
    "learn2learn cifarfs": ("cifar-fs", partial(folders, "cifar-fs"), 2, True),
}
# These archives are given themselves, not the folder they lie in.
ARCHIVES = {"cifar100.zip": "cifar100.zip"}


def put(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder
