"""Runs a tiny plan on files in a process of its own, so that a failpoint may kill it."""

import importlib.util
import json
import sys
from pathlib import Path

from planrunner.clock import SystemClock
from planrunner.engine.files import run_files
from planrunner.engine.launch import Parts, launch
from planrunner.engine.runner import RunOptions


def main() -> None:
    given = json.loads(sys.argv[1])
    description = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    assert description is not None
    assert description.loader is not None
    tiny = importlib.util.module_from_spec(description)
    description.loader.exec_module(tiny)
    folder = Path(given["folder"])
    files = str(folder / "files")
    steps = (
        tiny.spec("one", "touch", folder=files, files=["a", "b"]),
        tiny.spec("check", "check", folder=files, files=["a"], mended_by="touch"),
        tiny.spec("two", "touch", folder=files, files=["c"]),
    )
    path = folder / "tiny.yaml"
    plan = tiny.plan_of(path, given["source"], given["target"], *steps)
    parts = Parts(connect=tiny.Passwords(given["password"]), clock=SystemClock(), find=tiny.find)
    launch(plan, run_files(path), RunOptions(), parts)


main()
