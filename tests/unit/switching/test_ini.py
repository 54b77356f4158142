"""PgBouncer's file: one entry gets another address, and nothing else of the file changes."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from planrunner.errors import StepFailed
from planrunner.switching import ini

if TYPE_CHECKING:
    from pathlib import Path

WISH = {"host": "new.example.com", "port": "5433", "dbname": "app"}


def written(folder: Path, text: str, name: str = "pgbouncer.ini") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def led(path: Path, database: str = "app", wish: dict[str, str] | None = None) -> str:
    ini.write(ini.rewritten(path, database, wish or WISH))
    return path.read_bytes().decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("app = host=old port=1 dbname=app", "app = host=new.example.com port=5433 dbname=app"),
        ("app=host=old", "app=host=new.example.com port=5433 dbname=app"),
        ("  app\t=  host = 'old host'  ", "  app\t=  host = new.example.com port=5433 dbname=app  "),
        ("app =", "app =host=new.example.com port=5433 dbname=app"),
        (
            "app = user=u password='it''s host=x' host=old pool_size=3",
            "app = user=u password='it''s host=x' host=new.example.com pool_size=3 port=5433 dbname=app",
        ),
        (
            "app = connect_query='SELECT ''host=1''' host=a port=1",
            "app = connect_query='SELECT ''host=1''' host=new.example.com port=5433 dbname=app",
        ),
        ('"app" = host=old', '"app" = host=new.example.com port=5433 dbname=app'),
    ],
)
def test_only_the_address_of_the_entry_changes(before: str, after: str, tmp_path: Path) -> None:
    around = "; app = host=comment\n# app = host=comment\r\n[databases]\nother = host=old\n{}\n\n[pgbouncer]\napp = 1\n"
    path = written(tmp_path, around.format(before))
    assert led(path) == around.format(after)
    assert not ini.rewritten(path, "app", WISH).changed, "a second time there is nothing to do"


def test_line_ends_and_bytes_that_are_no_utf8_stay_as_they_are(tmp_path: Path) -> None:
    text = "[databases]\r\napp = host=old\r\n; \udcff\x0b\x85\u2028 caf\udce9\r\n"
    assert led(written(tmp_path, text)) == text.replace(
        "host=old", "host=new.example.com port=5433 dbname=app"
    )


def test_a_file_without_a_line_end_at_its_end_gets_none(tmp_path: Path) -> None:
    assert led(written(tmp_path, "[databases]\napp = host=old")).endswith("dbname=app")


def test_a_fallback_stays_for_the_others_and_the_database_gets_an_entry_of_its_own(tmp_path: Path) -> None:
    text = "[databases]\nother = host=o\n* = host=old user='a b'\n"
    assert led(written(tmp_path, text)) == (
        "[databases]\nother = host=o\napp = host=new.example.com user='a b' port=5433 dbname=app\n"
        "* = host=old user='a b'\n"
    )


def test_an_entry_wins_over_the_fallback_wherever_it_stands(tmp_path: Path) -> None:
    text = "[databases]\n* = host=old\napp = host=old\n"
    assert led(written(tmp_path, text)).startswith("[databases]\n* = host=old\napp = host=new.example.com")


def test_an_included_file_is_the_one_that_is_rewritten(tmp_path: Path) -> None:
    main = written(tmp_path, "[databases]\n%include databases.ini\nother = host=o\n")
    inner = written(tmp_path, "app = host=old\n", "databases.ini")
    change = ini.rewritten(main, "app", WISH)
    assert change.file == inner
    ini.write(change)
    assert inner.read_text() == "app = host=new.example.com port=5433 dbname=app\n"
    assert main.read_text() == "[databases]\n%include databases.ini\nother = host=o\n"


def test_a_section_that_begins_in_an_included_file_goes_on_after_it(tmp_path: Path) -> None:
    main = written(tmp_path, "[databases]\n%include more.ini\napp = host=old\n")
    written(tmp_path, "[pgbouncer]\nlisten_port = 1\n", "more.ini")
    with pytest.raises(StepFailed, match="has no entry app"):
        ini.rewritten(main, "app", WISH)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[databases]\nother = host=o\n", "has no entry app"),
        ("app = host=o\n", "has no entry app"),
        ("[databases]\napp = host=a\napp = host=b\n", "stands twice"),
        ("[databases]\napp = host='never closed\n", "no list of key=value"),
        ("[databases]\n%include pgbouncer.ini\n", "included by itself"),
        ("[databases]\n%include nowhere.ini\n", "can't be read"),
    ],
)
def test_what_is_not_clear_is_refused_and_the_file_stays(text: str, message: str, tmp_path: Path) -> None:
    path = written(tmp_path, text)
    with pytest.raises(StepFailed, match=message) as refused:
        ini.rewritten(path, "app", WISH)
    assert "never closed" not in str(refused.value)
    assert path.read_text() == text


def test_mode_and_link_stay_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    real = written(tmp_path, "[databases]\napp = host=old\n", "real.ini")
    real.chmod(0o640)
    link = tmp_path / "pgbouncer.ini"
    link.symlink_to(real)
    led(link)
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert "new.example.com" in real.read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pgbouncer.ini", "real.ini"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = written(tmp_path, "[databases]\napp = host=old\n")
    os.chown(path, 65534, 65534)
    led(path)
    assert (path.stat().st_uid, path.stat().st_gid) == (65534, 65534)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    host=st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1),
    name=st.from_regex(r"[a-z]{1,8}", fullmatch=True),
)
def test_any_value_comes_back_as_it_was_wished(host: str, name: str) -> None:
    line = ini.Line(file=None, number=0, name=name, start=0, end=0)  # type: ignore[arg-type]
    once = ini._with("user=u host='a b' port=1", {"host": host}, line)
    assert ini._with(once, {"host": host}, line) == once
    assert ini._with(once, {"host": "a b"}, line) == "user=u host='a b' port=1"


@pytest.mark.parametrize(("name", "shown"), [("app", "app"), ('a"b', '"a""b"'), ("a b;--", '"a b;--"')])
def test_a_name_is_quoted_where_it_must_be(name: str, shown: str) -> None:
    assert ini.quoted_name(name) == shown
