"""A call in a child process that has limits, an empty environment and a folder of its own.

What reads strangers' files runs there, so that a file that exhausts memory or time, or crashes the
library that reads it, ends as a typed error here. The child is no sandbox: its user is the same.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from metalearn.data.untrusted import damage
from metalearn.errors import DataError

ANSWER: Final = "answer"
_REQUEST, _READS, _ERRORS = "request", "reads", "errors"
_START: Final = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from metalearn.data.untrusted.child import serve; serve()"
)
# Windows starts no Python without the first.
_KEPT: Final = ("SYSTEMROOT",)
_EXCEEDED: Final = {
    errno.ENOMEM: "memory",
    errno.EFBIG: "written",
    errno.ENOSPC: "written",
}
_LONGEST_ANSWER: Final = 2**28


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of a child, beside what the interpreter takes before it reads a file.

    Memory, processor time and written bytes are limited where the platform has `resource` limits.

    Attributes:
        memory: bytes of private memory.
        processor_seconds: seconds of processor time.
        wall_seconds: seconds by the clock.
        written: bytes of any one file that is written.
    """

    memory: int
    processor_seconds: int
    wall_seconds: float
    written: int

    @staticmethod
    def of(size: int) -> Limits:
        """Limits for sources of `size` bytes: several times what any form was seen to take.

        A pickle is in memory once as bytes and once as arrays. The smallest images are drawings of
        some 300 bytes, of which a core reads more than a thousand in a second, 1 MB in 3 s.
        """
        seconds = 600 + size // 50_000
        return Limits(
            memory=2**31 + 3 * size,
            processor_seconds=seconds,
            wall_seconds=4.0 * seconds,  # the disk may be slow
            written=2**36,
        )


def call(
    function: Callable[..., Any], *arguments: Any, folder: Path, limits: Limits, source: str
) -> Any:
    """The value of `function(*arguments)`, computed in a child process whose folder is `folder`.

    Args:
        function: a function of a module; `DataError` passes from it to the caller.
        arguments: values that JSON can hold, as the result must be.
        folder: existing empty folder: where the child starts and keeps temporary files. The caller
            removes it.
        limits: limits of the child.
        source: name of what is read, for messages, until the child says which file it is at.

    Raises:
        DataError: the function raised one, or the child crashed, was killed or exceeded a limit.
    """
    request = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "arguments": arguments,
        "limits": asdict(limits),
    }
    (folder / _REQUEST).write_text(json.dumps(request), encoding="utf-8")
    path = [str(Path(entry).absolute()) for entry in sys.path]
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    with (
        (folder / _REQUEST).open("rb") as asked,
        (folder / _READS).open("wb") as reads,
        (folder / _ERRORS).open("wb") as errors,
    ):
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, *path],
            stdin=asked,
            stdout=reads,
            stderr=errors,
            cwd=folder,
            env=environment,
        )
        try:
            status: int | None = process.wait(limits.wall_seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            process.kill()
            process.wait()
    answer = _answer(folder) if status == 0 else {}
    if "value" in answer:
        return answer["value"]
    if "refused" in answer:
        raise DataError(str(answer["refused"]))
    said = {
        "memory": f"more than the {limits.memory} bytes of memory",
        "written": f"a file of more than the {limits.written} bytes, or more disk than is free,",
    }.get(str(answer.get("exceeded")), "")
    if status is None:
        said = f"more than the {limits.wall_seconds:g} seconds by the clock"
    elif hasattr(signal, "SIGXCPU") and status == -signal.SIGXCPU:
        said = f"more than the {limits.processor_seconds} seconds of processor time"
    file = _at(folder) or source
    if said:
        raise DataError(
            f"{file} took {said} that reading may take: it is damaged, or made to exhaust. "
            "Get it from a source you trust."
        )
    raise DataError(
        f"{file} ended the process that read it ({_ended(status or 0, folder)}): it is damaged, "
        "or made to do so; or the process was killed, for example as memory ran out. Nothing of "
        "it was kept."
    )


def _answer(folder: Path) -> dict[str, Any]:
    file = folder / ANSWER
    with damage.reading(str(file), "an answer"):
        if file.is_symlink() or file.stat().st_size > _LONGEST_ANSWER:
            raise DataError("The process that read the source answered something else. Try again.")
        found = json.loads(file.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}


def _at(folder: Path) -> str:
    """The file that the child was at; empty where it read none."""
    line = (folder / _READS).read_bytes()[:10_000].partition(b"\n")[0]
    try:
        return str(json.loads(line))
    except ValueError:
        return ""


def _ended(status: int, folder: Path) -> str:
    """Reason why the child ended, with the last lines that it printed."""
    if status < 0:
        return signal.Signals(-status).name
    lines = (folder / _ERRORS).read_text(encoding="utf-8", errors="replace")[-1000:].splitlines()
    return f"exit status {status}{': ' + lines[-1] if lines else ''}"


def _limit(limits: Limits) -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    status = Path("/proc/self/status")
    used = 0
    if status.exists():
        used = 1024 * int(status.read_text().partition("VmData:")[2].split()[0])
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = limits.processor_seconds + int(before.ru_utime + before.ru_stime) + 1
    for kind, value, beyond in (
        (resource.RLIMIT_DATA, used + limits.memory, 0),
        (resource.RLIMIT_CPU, seconds, 10),  # SIGXCPU says which limit it was, SIGKILL would not
        (resource.RLIMIT_FSIZE, limits.written, 0),
        (resource.RLIMIT_CORE, 0, 0),
    ):
        _, hard = resource.getrlimit(kind)
        most = value + beyond if hard == resource.RLIM_INFINITY else min(value + beyond, hard)
        resource.setrlimit(kind, (min(value, most), most))


def serve() -> None:
    """Run in the child: read a request from standard input and write the answer to a file."""
    request = json.load(sys.stdin)
    folder = Path.cwd()
    module, _, name = request["function"].partition(":")
    function = getattr(importlib.import_module(module), name)
    tempfile.tempdir = str(folder)
    damage.note_in(os.fdopen(sys.stdout.fileno(), "wb", 0, closefd=False))
    _limit(Limits(**request["limits"]))
    try:
        answer = {"value": function(*request["arguments"])}
    except DataError as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"exceeded": "memory"}
    except OSError as error:
        if error.errno not in _EXCEEDED:
            raise
        answer = {"exceeded": _EXCEEDED[error.errno]}
    (folder / ANSWER).write_text(json.dumps(answer), encoding="utf-8")
