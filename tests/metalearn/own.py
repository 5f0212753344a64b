"""Small copies of the layouts that own pictures come in, and that authors of data sets publish."""

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.io import savemat

from tests.metalearn import legacy


def picture(form: str = "PNG") -> bytes:
    return legacy.encoded(legacy.images(1, 16)[0], form)


def flat(classes: int, *, form: str = "{c}/{i}.png", each: int = 2) -> dict[str, bytes]:
    names = [f"class {number:02d}" for number in range(classes)]
    return {form.format(c=name, i=i): picture() for name in names for i in range(each)}


def listed(kind: str) -> dict[str, bytes]:
    """Lists of each split with the ending `kind`."""
    files = {}
    for split in legacy.SPLITS:
        rows = []
        for number in range(4):
            files[f"images/{split}{number}.png"] = picture()
            rows.append({"filename": f"{split}{number}.png", "label": f"{split} {number % 2}"})
        lines = [json.dumps(row) for row in rows]
        text = "\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]"
        files[f"{split}.{kind}"] = text.encode()
    return files


def hugging_face(by_split: bool) -> dict[str, bytes]:
    """`metadata.jsonl` in the folder of each split, or one `metadata.csv` for all."""
    files = {}
    rows = ["file_name,label"]
    for split in ("train", "validation", "test"):
        lines = []
        for number in range(4):
            files[f"{split}/{number}.png"] = picture()
            label = f"{split} {number % 2}"
            lines.append(json.dumps({"file_name": f"{number}.png", "label": label}))
            rows.append(f"{split}/{number}.png,{label}")
        if by_split:
            files[f"{split}/metadata.jsonl"] = "\n".join(lines).encode()
    return files if by_split else files | {"metadata.csv": "\n".join(rows).encode()}


def meta_album() -> dict[str, bytes]:
    rows = ["FILE_NAME,CATEGORY,SUPER_CATEGORY"]
    files = {"info.json": b'{"dataset_name": "DOG", "total_categories": 6}'}
    for number in range(12):
        files[f"images/DOG_{number:06d}.jpg"] = picture("JPEG")
        rows.append(f"DOG_{number:06d}.jpg,breed {number % 6},dogs")
    return files | {"labels.csv": "\n".join(rows).encode()}


def cub() -> dict[str, bytes]:
    files = {"attributes.txt": b"1 has_bill_shape::curved"}
    paths = [f"{n:03d}.Bird_{n}/Bird_{n}_{i:04d}.jpg" for n in range(1, 7) for i in range(2)]
    files |= {f"CUB_200_2011/images/{path}": picture("JPEG") for path in paths}
    listed = "\n".join(f"{number} {path}" for number, path in enumerate(paths, 1))
    return files | {
        "CUB_200_2011/images.txt": listed.encode(),
        "CUB_200_2011/README": b"the birds",
        "CUB_200_2011/parts/parts.txt": b"1 back",
    }


def closer_look() -> dict[str, bytes]:
    """Lists with the paths of the machine that wrote them."""
    names = [f"{n:03d}.Bird_{n}" for n in range(1, 7)]
    files: dict[str, bytes] = {}
    for split, chosen in (("base", (0, 2)), ("val", (1, 5)), ("novel", (3, 4))):
        images = [f"{names[n]}/{i}.jpg" for n in chosen for i in range(2)]
        files |= {f"CUB/images/{image}": picture("JPEG") for image in images}
        content = {
            "label_names": names,
            "image_names": [f"/home/author/CUB/images/{image}" for image in images],
            "image_labels": [n for n in chosen for _ in range(2)],
        }
        files[f"CUB/{split}.json"] = json.dumps(content).encode()
    return files


def flowers() -> dict[str, bytes]:
    def mat(**arrays: Any) -> bytes:
        file = io.BytesIO()
        savemat(file, arrays, do_compression=True)
        return file.getvalue()

    labels = np.array([[1, 2, 3, 4, 5, 6] * 2], np.uint8)
    return {
        "imagelabels.mat": mat(labels=labels),
        "setid.mat": mat(trnid=labels, valid=labels, tstid=labels),
        **{f"jpg/image_{number:05d}.jpg": picture("JPEG") for number in range(1, 13)},
    }


def formats() -> dict[str, bytes]:
    """A class of each format but the usual two."""
    forms = {"webp": "WEBP", "gif": "GIF", "tif": "TIFF", "bmp": "BMP", "ppm": "PPM", "png": "PNG"}
    return {f"{end}/{i}.{end}": picture(form) for end, form in forms.items() for i in range(2)}


Files = Callable[[], dict[str, bytes]]
# Files, whether the classes are in no split, what the layout is called.
LAYOUTS: dict[str, tuple[Files, bool, str]] = {
    "json": (lambda: listed("json"), False, "json and images"),
    "json lines": (lambda: listed("jsonl"), False, "jsonl and images"),
    "Hugging Face": (lambda: hugging_face(True), False, "jsonl and images"),
    "Hugging Face, one list": (lambda: hugging_face(False), True, "csv and images"),
    "Meta-Album": (meta_album, True, "csv and images"),
    "CUB": (cub, True, "folders of classes"),
    "CUB, A Closer Look": (closer_look, False, "json and images"),
    "VGG Flowers": (flowers, True, "mat and images"),
    "flat": (lambda: flat(6), True, "folders of classes"),
    "formats": (formats, True, "folders of classes"),
}
