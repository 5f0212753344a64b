"""Parquet files as Hugging Face writes them: encoded pictures, and a label for each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Any, Final

from metalearn.data.untrusted.damage import reading
from metalearn.errors import DataError, install_extra

LABELS: Final = ("label", "labels", "fine_label", "class_name", "category")
_PICTURE: Final = "bytes"  # the field of a picture's column that holds its file


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Pictures of a file, not yet decoded.

    Attributes:
        labels: name of the class of each row.
        paths: name that each picture had, empty where none is known.
        pictures: files of the pictures, one for each row.
    """

    labels: list[str]
    paths: list[str]
    pictures: Any

    def picture(self, row: int) -> bytes:
        """The file of one picture.

        Raises:
            ValueError: the row has none.
        """
        content = self.pictures[row].as_py()
        if not isinstance(content, bytes):
            raise ValueError(f"row {row} holds no picture")
        return content


def _pyarrow(name: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(
            f"{name} is a Parquet file, which needs pyarrow: {install_extra('parquet')}, or write "
            "its pictures to files."
        ) from error
    # the others reserve more address space than the process may have
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
    return pyarrow


def read_table(file: BufferedIOBase, name: str) -> Table:
    """Labels and encoded pictures of a file, which are in memory as they lie in it.

    Args:
        file: the open file, which is closed.
        name: name of the file, for messages.

    Raises:
        DataError: pyarrow is not installed; or it is no Parquet file, is damaged, or has not one
            column of pictures and one of labels.
    """
    with file:
        head = file.read(512)
        file.seek(0)
        api = _pyarrow(name)
        with reading(name, "a Parquet file", head):
            opened = api.parquet.ParquetFile(file)
            schema = opened.schema_arrow
            pictures = [field.name for field in schema if _holds_pictures(api, field.type)]
            known = [label for label in LABELS if label in schema.names]
            if len(pictures) != 1 or not known:
                raise DataError(
                    f"{name} has the columns {', '.join(schema.names[:8])}, where one of pictures "
                    f"(with a field {_PICTURE}) and one of labels ({', '.join(LABELS)}) were "
                    "expected."
                )
            (picture,), label = pictures, known[0]
            columns = [f"{picture}.{_PICTURE}", f"{picture}.path", label]
            table = opened.read(columns=columns, use_threads=False)
            rows = table.column(picture).combine_chunks()
            return Table(
                labels=_named(table.column(label).to_pylist(), _names(schema, label), name),
                paths=[str(path or "") for path in _paths(rows)],
                pictures=rows.field(_PICTURE),
            )


def _holds_pictures(api: Any, kind: Any) -> bool:
    if not api.types.is_struct(kind) or kind.get_field_index(_PICTURE) < 0:
        return False
    inner = kind.field(_PICTURE).type
    return bool(api.types.is_binary(inner) or api.types.is_large_binary(inner))


def _paths(rows: Any) -> list[object]:
    there = rows.type.get_field_index("path") >= 0
    return rows.field("path").to_pylist() if there else [None] * len(rows)


def _names(schema: Any, label: str) -> list[str] | None:
    """Names of the classes by number, as the `datasets` library writes them beside the columns."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return None
    found = json.loads(text)["info"]["features"].get(label, {}).get("names")
    if found is None:
        return None
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ValueError("the names of its classes are no list of text")
    return found


def _named(values: list[Any], names: list[str] | None, file: str) -> list[str]:
    """The class of each row.

    Raises:
        DataError: a row has none, or something else.
    """
    found = []
    for row, value in enumerate(values):
        blank = isinstance(value, str) and not value.strip()
        if value is None or blank or (isinstance(value, int) and value < 0):
            raise DataError(f"{file} has no label in row {row}: give each picture a class.")
        if not isinstance(value, int | str):
            raise DataError(
                f"{file} has a {type(value).__name__} for a label in row {row}, where the number "
                "or the name of one class was expected: write that in its place."
            )
        if names is not None and isinstance(value, int):
            value = names[value]
        found.append(str(value).strip())
    return found
