"""Runs the command line and writes down which points it passes: ``python -m tests.faults.traced FILE VERB …``."""

from __future__ import annotations

import sys
from pathlib import Path

from planrunner import failpoints


def main() -> None:
    """Note each passage as a line of the file, then go on as the command line does."""
    with Path(sys.argv[1]).open("a", buffering=1) as passed:

        def noted(name: str) -> None:
            passed.write(f"{name}\n")

        # Before any module takes the name.
        failpoints.failpoint = noted
        del sys.argv[1]
        from planrunner.cli.main import main as command_line

        command_line()


if __name__ == "__main__":
    main()
