"""A stranger's plan can be checked: nothing is connected to, nothing is run, no secret is read.

strace watches the whole process. A command that is to be as safe is one more entry of COMMANDS.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PLAN = """\
apiVersion: planrunner/v1
kind: MigrationPlan
metadata: {name: stranger}
connections:
  source:
    dsn: host=127.0.0.1 port=5432 dbname=app user=migrator sslmode=disable
    password: {secret: {file: ./source.password}}
    rds: {instance: orders-prod, region: us-east-1, endpoint_url: "http://127.0.0.1:9"}
  target:
    dsn: host=db.example.com dbname=app user=migrator
    password: {secret: {command: [touch, stolen]}}
steps:
  - {id: logical, uses: enable_logical}
  - {id: check, uses: validate}
  - {id: copy, uses: snapshot}
  - {id: follow, uses: sync}
  - id: cutover
    uses: cutover_verify
    approval: manual
    with:
      switch:
        - command: {before_fence: [touch, stolen]}
        - pgbouncer:
            admin: postgresql://pgbouncer@127.0.0.1:6432/pgbouncer
            password: {secret: {file: ./source.password}}
            database: app
            config: ./pgbouncer.ini
        - secretsmanager: {secret_id: prod/app}
"""
COMMANDS = {
    "lint": ("lint", "plan.yaml"),
    "lint of a folder": ("lint", ".", "--format", "sarif"),
    "lint of a broken plan": ("lint", "broken.yaml"),
    "preview": ("preview", "plan.yaml", "--offline"),
}
NETWORK = re.compile(r"\b(?:socket|connect|bind|sendto|sendmsg|sendmmsg|listen|accept4?)\(")
STARTED = re.compile(r"\bexecve(?:at)?\(")
OPENED = re.compile(r'\bopen(?:at2?)?\((?:AT_FDCWD, |[0-9]+, )?"([^"]*)"')


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a process did, thread and child alike."""

    ended: subprocess.CompletedProcess[str]
    network: list[str]
    started: list[str]
    opened: set[str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "broken.yaml").write_text(PLAN.replace("uses: sync", "uses: snyc"))
    (tmp_path / "source.password").write_text("hunter2\n")
    (tmp_path / "pgbouncer.ini").write_text("[databases]\n")
    return tmp_path


def watch(folder: Path, *command: str) -> Watched:
    strace = shutil.which("strace")
    assert strace is not None, "strace is missing: apt-get install strace"
    trace = folder / "trace.txt"
    ended = subprocess.run(
        [strace, "-f", "-s", "4096", "-e", "trace=network,process,open,openat", "-o", str(trace), *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = trace.read_text("utf-8", "replace").splitlines()
    return Watched(
        ended=ended,
        network=[line for line in lines if NETWORK.search(line)],
        started=[line for line in lines if STARTED.search(line)],
        opened={Path(match[1]).name for line in lines if (match := OPENED.search(line))},
    )


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_checking_connects_to_nothing_runs_nothing_and_reads_no_secret(
    command: tuple[str, ...], folder: Path
) -> None:
    seen = watch(folder, sys.executable, "-m", "planrunner", *command)

    assert seen.ended.returncode in {0, 2}, seen.ended.stderr
    assert seen.opened & {"plan.yaml", "broken.yaml"}
    assert seen.network == []
    assert len(seen.started) == 1, "python itself"
    assert not {"source.password", "pgbouncer.ini"} & seen.opened
    assert not (folder / "stolen").exists()
    assert "hunter2" not in seen.ended.stdout + seen.ended.stderr


def test_the_watch_sees_what_it_is_to_see(folder: Path) -> None:
    script = (
        "import socket, subprocess; open('source.password'); subprocess.run(['true']);"
        "s = socket.socket(); s.settimeout(1); s.connect_ex(('127.0.0.1', 9))"
    )
    seen = watch(folder, sys.executable, "-c", script)

    assert "source.password" in seen.opened
    assert any("connect(" in line for line in seen.network)
    assert len(seen.started) > 1


@pytest.mark.parametrize(
    "reference",
    ["./out/secret", "./link", "sub/../../secret", "/etc/passwd", "./loop", "~/x/../../../secret"],
)
def test_a_secret_file_can_not_leave_the_plans_folder(reference: str, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret").write_text("hunter2")
    (inside / "out").symlink_to(tmp_path)
    (inside / "link").symlink_to(tmp_path / "secret")
    (inside / "loop").symlink_to(inside / "loop")
    (inside / "plan.yaml").write_text(
        PLAN.replace("./source.password}}\n    rds", f"{reference}}}}}\n    rds")
    )
    seen = watch(inside, sys.executable, "-m", "planrunner", "lint", "plan.yaml")

    assert seen.ended.returncode == 2
    assert "the file is not in the plan's folder" in seen.ended.stdout
    assert not {"secret", "passwd"} & seen.opened
