"""The README's first command, as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STEPS = ["enable_logical", "grant", "validate", "snapshot", "sync", "cutover_verify"]


def test_the_demo_migrates_a_busy_shop_and_loses_nothing() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "planrunner", "demo", "--output", "json"],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    figures = json.loads(ran.stdout)
    assert figures["result"] == "migrated"
    assert figures["verified"] is True
    assert figures["differences"] == 0
    assert figures["lost_writes"] == 0
    assert figures["acknowledged_writes"] > 100
    assert figures["rows"] > 60_000
    assert figures["tables"] >= 15
    assert 0 < figures["write_pause_ms"] < 5000
    assert [step["uses"] for step in figures["steps"]] == STEPS
    assert {step["status"] for step in figures["steps"]} == {"done"}
    assert Path(figures["report"]).exists()
    assert Path(figures["state"]).stat().st_mode & 0o777 == 0o600
