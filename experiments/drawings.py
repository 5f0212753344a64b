"""Omniglot's drawings resized in two ways, which short runs compare by validation.

The files are pictures of 1 bit. Pillow resizes such a picture by its nearest pixels, so that it
stays black and white; turned to grey first, as `metalearn prepare` does, its lines stay smooth.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image
from rich.console import Console

from experiments.search import TWENTY_WAYS
from metalearn.config.commands import PrepareConfig
from metalearn.data.prepare import prepare
from metalearn.data.published import published
from metalearn.data.readers.omniglot import HALVES
from metalearn.errors import ConfigError

GREY, BLACK_AND_WHITE = "grey, then resized", "resized in black and white"
SEEDS: Final = (1,)
SHORT: Final[Mapping[str, Any]] = {
    **TWENTY_WAYS,
    "filters": 32,
    "precision": "float32",
    "wide_heads": False,
    "schedule": "cosine",
}
"""Changes to the settings of the long run, so that a run takes a minute of a core."""


def black_and_white(archive: Path, out: Path, *, side: int) -> None:
    """Write an archive of the same drawings, each resized as the picture of 1 bit that it is."""
    with zipfile.ZipFile(archive) as files, zipfile.ZipFile(out, "w") as resized:
        for name in files.namelist():
            if not name.endswith(".png"):
                continue
            content = io.BytesIO()
            with Image.open(io.BytesIO(files.read(name))) as drawing:
                if drawing.mode != "1":
                    raise ConfigError(
                        f"{archive} holds {name}, a picture of mode {drawing.mode}: give the "
                        "official archives, whose drawings have 1 bit."
                    )
                drawing.resize((side, side)).save(content, "PNG")
            resized.writestr(name, content.getvalue())


def prepared(folder: Path, source: Sequence[Path], *, console: Console) -> dict[str, Path]:
    """Prepare the drawings in both ways, unless that is done.

    Args:
        folder: Folder for the data.
        source: The two archives, or folders that hold them.
        console: Where progress is printed.

    Returns:
        Folder to give as `data_root`, for each way.

    Raises:
        ConfigError: an archive is missing, or holds other pictures.
        DataError: the drawings can't be read.
    """
    roots = {GREY: folder / "grey", BLACK_AND_WHITE: folder / "black-and-white"}
    missing = [root for root in roots.values() if not (root / "omniglot").exists()]
    if not missing:
        return roots
    every = [each / f"{half}.zip" for half in HALVES for each in source if each.is_dir()]
    given = {path.name: path for path in (*source, *every) if path.is_file()}
    archives = [given.get(f"{half}.zip") for half in HALVES]
    if None in archives:
        raise ConfigError(
            f"source was given as {[str(path) for path in source]}: give "
            f"{' and '.join(f'{half}.zip' for half in HALVES)}, or a folder that holds both."
        )
    side = published("omniglot").side
    for root in missing:
        files = [path for path in archives if path is not None]
        if root == roots[BLACK_AND_WHITE]:
            root.mkdir(parents=True, exist_ok=True)
            for path in files:
                black_and_white(path, root / path.name, side=side)
            files = [root / path.name for path in files]
        prepare(PrepareConfig(dataset="omniglot", source=tuple(files), root=root), console=console)
    return roots


def variants(
    roots: Mapping[str, Path], *, seeds: Sequence[int] = SEEDS
) -> dict[str, dict[str, Any]]:
    """Settings of the runs: each seed on the drawings of each way."""
    return {
        f"{way}, seed {seed}": {"data_root": root, "seed": seed}
        for seed in seeds
        for way, root in roots.items()
    }
