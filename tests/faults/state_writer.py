"""A process that writes one more serial of a state file, for a tracer to disturb; its save lies between two marks."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from planrunner.errors import StateUnfit
from planrunner.state.file import FileStore

# A path that exists nowhere: asking for it shows in a trace.
MARK = "/planrunner-mark"
REFUSED = 6


def main(path: str) -> int:
    """Save the next serial; the exit code of the error when it is refused."""
    store = FileStore(Path(path))
    before = store.load()
    assert before is not None
    after = replace(before, serial=before.serial + 1)
    os.access(MARK, os.F_OK)
    try:
        store.save(after)
    except StateUnfit as error:
        sys.stdout.write(error.message)
        return error.exit_code
    finally:
        os.access(MARK, os.F_OK)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
