"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any, Final


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that no reader, and no crash, ever meets half of it.

    The content goes to a temporary file of the same folder, which then takes the name `path` in one
    step. The folder is made if need be.

    Raises:
        OSError: the folder can't be made or written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile's: its files are for their owner's eyes only, a result's are as the umask says.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_temporary(path: Path) -> bool:
    """True if `write_atomically` leaves a file of this name when the process is killed in it."""
    return re.fullmatch(r"\..+\.[0-9a-f]{16}", path.name) is not None


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically; NaN and infinity, no JSON, are refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


DIGEST: Final = "sha256:"


def digest_of(path: Path) -> str:
    """`sha256:` and the SHA-256 of a file.

    Raises:
        OSError: the file can't be read.
    """
    return f"{DIGEST}{described(path)['sha256']}"


def described(path: Path) -> dict[str, int | str]:
    """Bytes and SHA-256 of a file.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}
