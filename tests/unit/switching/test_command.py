"""The plan's own commands: what they are told, and what is said when they fail."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import ToolFailed
from planrunner.model import Endpoint, Mark, Secret, Side
from planrunner.postgres.connection import Server
from planrunner.switching.command import Command
from planrunner.switching.hooks import Surroundings
from planrunner.switching.terms import CommandTerms

PASSWORD = "the source's"


def command(*argv: str, timeout: float = 20.0) -> Command:
    clock = SystemClock()

    def server(side: Side, dsn: str) -> Server:
        # Never connected: only its address is asked for.
        return Server(
            Endpoint(side=side, dsn=dsn),
            clock=clock,
            resolve=lambda _: Secret(PASSWORD),
            label="planrunner/x",
        )

    around = Surroundings(
        source=server(Side.SOURCE, "postgresql://m@old/app"),
        target=server(Side.TARGET, "postgresql://m@new:6432/moved"),
        fence_trigger="t",
        fence_function="f",
        budget=5.0,
        clock=clock,
        resolve=lambda _: Secret(""),
        tell=lambda _text, _fields: None,
    )
    terms = CommandTerms(before_fence=(), after_commit=argv, on_rollback=(), timeout=timeout)
    return Command(terms, around)


@pytest.mark.parametrize(
    ("to", "told"), [(Side.TARGET, "target new 6432 moved"), (Side.SOURCE, "source old 5432 app")]
)
def test_a_command_is_told_where_traffic_goes(to: Side, told: str, tmp_path: Path) -> None:
    file = tmp_path / "told"
    variables = " ".join(f'"$PLANRUNNER_{name}"' for name in ("TO", "HOST", "PORT", "DATABASE"))
    command("sh", "-c", f"echo {variables} > '{file}'").after_commit(to)
    assert file.read_text() == f"{told}\n"


def test_no_shell_reads_what_the_plan_says(tmp_path: Path) -> None:
    command("touch", f"{tmp_path}/a; touch b").after_commit(Side.TARGET)
    assert [path.name for path in tmp_path.iterdir()] == ["a; touch b"]


def test_a_failure_tells_the_end_of_what_it_said_without_passwords(tmp_path: Path) -> None:
    script = tmp_path / "fails"
    script.write_text(f'echo first\necho "connecting with {PASSWORD}" >&2\nexit 3\n')
    with pytest.raises(ToolFailed, match=r"exit code 3: first; connecting with \*\*\*") as failed:
        command("sh", str(script)).after_commit(Side.TARGET)
    assert PASSWORD not in str(failed.value)


def test_a_command_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with pytest.raises(ToolFailed, match=r"not ended within 0\.5 s"):
        command("sh", "-c", f"sleep 60 & echo $! > {file}; wait", timeout=0.5).after_commit(Side.TARGET)
    pid = int(file.read_text())
    deadline = time.monotonic() + 10
    while _lives(pid) and time.monotonic() < deadline:
        SystemClock().sleep(0.02)
    assert not _lives(pid)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_program_that_is_not_there_is_found_beforehand() -> None:
    assert [f.mark for f in command("no-such-program-anywhere").findings()] == [Mark.FAIL]
    assert [f.mark for f in command("sh", "-c", "true").findings()] == [Mark.PASS]
    with pytest.raises(ToolFailed, match="could not be started"):
        command("no-such-program-anywhere").after_commit(Side.TARGET)
