"""The frame of the command line: help, exit codes, and what an error looks like."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

VERBS = (
    *("init", "lint", "preview", "run", "approve", "status", "verify", "cleanup"),
    *("report", "explain", "schema", "doctor", "demo", "state"),
)
HEAVY = ("psycopg", "boto3", "botocore", "jinja2", "jsonschema", "rich", "yaml")
LOADED = """
import sys
from planrunner.cli.main import app
try:
    app(["--help"])
except SystemExit:
    pass
print("LOADED", *[name for name in {heavy!r} if name in sys.modules])
"""


def test_help_loads_nothing_heavy(cli: Any) -> None:
    script = LOADED.format(heavy=HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(cli: Any, verb: str) -> None:
    ended = cli(verb, "--help")
    assert ended.returncode == 0
    assert f"planrunner {verb}" in ended.stdout
    assert verb in cli("--help").stdout


def test_the_version_is_told(cli: Any) -> None:
    assert re.fullmatch(r"planrunner \d+\.\d+\.\d+\S*\n", cli("--version").stdout)


def test_a_wrong_option_is_a_usage_error(cli: Any) -> None:
    ended = cli("run", "plan.yaml", "--what")
    assert ended.returncode == 2
    assert "--what" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_malformed_variable_is_a_usage_error(cli: Any, tmp_path: Path) -> None:
    ended = cli("preview", "plan.yaml", "--var", "region")
    assert ended.returncode == 2
    assert "NAME=VALUE" in ended.stderr


def test_init_never_overwrites_without_force(cli: Any, tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("precious")
    ended = cli("init", "--source", "postgresql://a@h/d", "--target", "postgresql://b@i/d")
    assert ended.returncode == 2
    assert "--force" in ended.stderr
    assert (tmp_path / "plan.yaml").read_text() == "precious"


def test_a_bug_is_saved_to_a_file_and_not_thrown_at_the_user(tmp_path: Path) -> None:
    script = (
        "from planrunner.cli import main\n"
        "def broken(*a, **k): raise RuntimeError('postgresql://me:hunter2@host/db password=hunter2')\n"
        "main.app = broken\n"
        "main.main()\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 3
    assert "Traceback" not in ended.stderr
    (saved,) = tmp_path.glob("planrunner-*.txt")
    assert str(saved) in ended.stderr
    assert "RuntimeError" in saved.read_text()
    assert "hunter2" not in saved.read_text() + ended.stderr


def test_an_unknown_step_is_explained_with_a_guess(cli: Any) -> None:
    ended = cli("explain", "snapshoot")
    assert ended.returncode == 2
    assert "Did you mean snapshot?" in ended.stderr
