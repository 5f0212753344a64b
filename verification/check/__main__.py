"""``python -m verification.check``: the subcommand by itself."""

import sys

from verification.check.command import run

if __name__ == "__main__":
    sys.exit(run())
