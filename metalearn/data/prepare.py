"""Any of the forms a data set comes in, to the one form it is kept in."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console

from metalearn.config.commands import PrepareConfig
from metalearn.data.cache import data_folder
from metalearn.data.complete import require_complete
from metalearn.data.download import download
from metalearn.data.leftovers import about, table
from metalearn.data.published import OFFICIAL, Published, published
from metalearn.data.reading import read
from metalearn.data.source import Remark
from metalearn.data.store import Store, described_arrays, keep, open_store, require_absent
from metalearn.data.untrusted.archives import total_size
from metalearn.data.untrusted.child import Limits, call
from metalearn.data.untrusted.damage import reading
from metalearn.data.untrusted.images import RESAMPLING
from metalearn.errors import DataError


def _manifest(found: Any, known: Published, side: int, config: PrepareConfig) -> dict[str, Any]:
    """The manifest, from what the child says; `keep` looks at the arrays themselves."""
    divided = {"split": {"shares": config.split, "seed": config.seed}} if config.split else {}
    with reading("What the process that read the source says", "a list of classes"):
        sizes = {
            split: [(str(name), int(count)) for name, count in parts]
            for split, parts in found["sizes"].items()
        }
        source = found["source"]
        files = [row | {"official": OFFICIAL.get(row.get("md5", ""))} for row in source["files"]]
        lacking = require_complete(sizes, known, allow_partial=config.allow_partial)
        return {
            "dataset": known.name,
            "partial": bool(lacking),
            "lacking": lacking,
            "resampling": RESAMPLING,
            "source": {
                "layouts": source["layouts"],
                "notes": source["notes"],
                "files": files,
                **divided,
            },
            **described_arrays(sizes, side=side, channels=known.channels),
            "files": found["files"],
        }


def _remarks(found: Any) -> list[Remark]:
    with reading("What the process that read the source says", "a list of remarks"):
        return [
            Remark(str(row["file"]), bool(row["used"]), str(row["what"]))
            for row in found["remarks"]
        ]


def prepare(
    config: PrepareConfig, *, limits: Limits | None = None, console: Console | None = None
) -> Store:
    """Read a data set in whatever form, check it against what was published, and store it.

    The files are read in a child process (`untrusted.child`). With `config.verify` a prepared data
    set is checked instead.

    Args:
        config: sources to read and folder to write.
        limits: limits of the child; by default `Limits.of` the bytes of the sources.
        console: console that lists what was written.

    Raises:
        DataError: a file can't be downloaded; the source is damaged, unsafe, or not the data set;
            a picture is there twice, or too many would stay unused; reading it crashed or exceeded
            a limit; the result can't be written; or a prepared data set was changed.
    """
    known, path = published(config.dataset), data_folder(config.root) / config.dataset
    side = config.side or known.side
    if config.verify:
        store = open_store(path, full=True)
        if console is not None:
            said = f"{path}: all {len(store.manifest['files'])} files are as they were written"
            console.print(said, soft_wrap=True, highlight=False, markup=False)
        return store
    sources = config.source
    if config.download:
        files = data_folder(config.root) / "downloads" / config.dataset
        sources = (download(known, files, console=console),)
    sizes = [total_size(source) for source in sources]
    require_absent(path)
    above = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    except OSError as error:
        raise DataError(f"{path} can't be written ({error}): give another folder.") from error
    try:
        arrays, scratch = work / "arrays", work / "scratch"
        arrays.mkdir()
        scratch.mkdir()
        said = f"reading {', '.join(source.name for source in sources)}"
        with nullcontext() if console is None else console.status(said):
            found = call(
                read,
                config.dataset,
                [str(source.absolute()) for source in sources],
                str(arrays.absolute()),
                side,
                {
                    "allow_partial": config.allow_partial,
                    "shares": config.split,
                    "seed": config.seed,
                    "drop_duplicates": config.drop_duplicates,
                    "allow_unused": config.allow_unused,
                },
                folder=scratch,
                limits=limits or Limits.of(sum(sizes)),
                source=str(sources[0]),
            )
            manifest, remarks = _manifest(found, known, side, config), _remarks(found)
            store = keep(arrays, path, manifest, remarks=table(remarks))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        for folder in above:
            if not path.exists() and not any(folder.iterdir()):
                folder.rmdir()
    if console is not None:
        lines = [
            *map("{}: read as {}".format, sources, manifest["source"]["layouts"]),
            *manifest["source"]["notes"],
            *about(remarks),
        ]
        for split, entry in store.manifest["splits"].items():
            lines.append(f"{split}: {entry['classes']} classes, {entry['images']} images")
        lacking = "; ".join(manifest["lacking"])
        lines.append(f"written to {store.path}" + (f", partial: {lacking}" if lacking else ""))
        for line in lines:
            console.print(line, soft_wrap=True, highlight=False, markup=False)
    return store
