"""Entry point of the program `metalearn`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from metalearn.errors import install_extra


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; see `commands.run`.

    Args:
        arguments: by default those of the process.
    """
    # OpenMP's threads wait for each other by spinning unless told otherwise before torch loads it.
    # With other work on the machine they then spin on the very core the awaited thread needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from metalearn.cli.commands import run

        run(arguments)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("metalearn", "hypergrad"):
            raise
        sys.stderr.write(
            f"The command metalearn needs {error.name}, which is not installed: "
            f"{install_extra('train')}\n"
        )
        sys.exit(1)
