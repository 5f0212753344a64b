"""What the tests of the child process ask a child to do; nothing here harms anyone."""

import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from metalearn.data.untrusted.damage import note
from metalearn.errors import DataError


def surroundings(descriptor: int) -> dict[str, Any]:
    """What a child sees of its parent."""
    try:
        os.fstat(descriptor)
        inherited = True
    except OSError:
        inherited = False
    return {
        "environment": [name for name in os.environ if name != "LC_CTYPE"],  # Python's own
        "folder": str(Path.cwd()),
        "temporary": tempfile.gettempdir(),
        "inherited": inherited,
    }


def refuse() -> None:
    raise DataError("the file is another one.")


def fail() -> None:
    raise KeyError("a mistake of ours")


def sleep() -> None:
    note("slow file")
    time.sleep(60)


def count() -> None:
    note("long file")
    while True:
        pass


def allocate(size: int) -> int:
    note("large file")
    return len(bytearray(size))


def write(size: int) -> int:
    note("growing file")
    return Path("written").write_bytes(bytes(size))


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def end() -> None:
    note("fatal file")
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    os._exit(3)
