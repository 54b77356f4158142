"""The command reference says what the commands are now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_command_reference_is_up_to_date(tmp_path: Path) -> None:
    fresh = tmp_path / "commands.md"
    subprocess.run(
        [
            *(sys.executable, "-m", "typer", "planrunner.cli.main", "utils", "docs", "--name", "planrunner"),
            *("--title", "The commands", "--output", str(fresh)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    committed = (ROOT / "docs/reference/commands.md").read_text()
    assert fresh.read_text() == committed, "run `make docs`"
