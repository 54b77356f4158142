"""Whatever is read back or parsed may have been damaged on purpose: it is refused by its own error, or it is what it was.

PLANRUNNER_SOAK makes fifty times as many examples; without it they are the same in every run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psycopg
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg import conninfo, sql

from planrunner.engine.events import Event, EventKind, parsed
from planrunner.engine.expectation import compared
from planrunner.engine.saved_preview import FORMAT_VERSION, KIND, read
from planrunner.errors import PlanInvalid, PlanrunnerError, StateUnfit, ToolFailed
from planrunner.loading import dsn, load
from planrunner.masking import hush, hushed, masked, speak
from planrunner.model import StepStatus
from planrunner.postgres.lsn import Lsn
from planrunner.state import control
from planrunner.state.codec import from_json, to_json
from planrunner.state.record import ApprovalRecord, State, StepState
from planrunner.units import seconds, size, span
from planrunner.webhook import post

if TYPE_CHECKING:
    from collections.abc import Iterator

SOAK = bool(os.environ.get("PLANRUNNER_SOAK"))


def examples(count: int) -> settings:
    return settings(
        max_examples=count * (50 if SOAK else 1),
        deadline=None,
        derandomize=not SOAK,
        suppress_health_check=list(HealthCheck),
    )


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**40), max_value=10**40)
    | st.floats(allow_nan=True)
    | st.text(max_size=12)
    | st.sampled_from(
        ["", "done", "x" * 300, "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+00:00", "\ud800"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every place of a tree, as its holder and key."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    found = []
    for key, inner in entries:
        found += [(tree, key), *places(inner)]
    return found


@st.composite
def damaged(draw: st.DrawFn, tree: Any) -> Any:
    """A tree with one to three of its places replaced, dropped, doubled under another name or put elsewhere."""
    tree = json.loads(json.dumps(tree))
    for _ in range(draw(st.integers(1, 3))):
        there = places(tree)
        if not there:
            break
        holder, key = draw(st.sampled_from(there))
        match draw(st.integers(0, 3)):
            case 0:
                holder[key] = draw(JSON)
            case 1:
                del holder[key]
            case 2 if isinstance(holder, dict):
                holder[draw(st.text(max_size=6))] = holder[key]
            case _:
                other, name = draw(st.sampled_from(there))
                holder[key] = json.loads(json.dumps(other[name])) if name in _keys(other) else None
    return tree


def _keys(holder: Any) -> Any:
    return holder if isinstance(holder, dict) else range(len(holder))


# Passwords and DSNs

# libpq takes nothing with a zero byte, and no text of ours has a half of a character.
TEXT = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30)
PASSWORDS = TEXT.map(lambda text: f"Kq7{text}zW9") | st.sampled_from(
    [
        "Kq7it's zW9",
        "Kq7\\'zW9",
        'Kq7"zW9',
        "Kq7a@b/c zW9",
        "Kq7:zW9",
        "Kq7''zW9",
        "Kq7\\\\zW9",
        "Kq7 user=xzW9",
    ]
)


def assert_gone(password: str, text: str) -> None:
    shown = masked(text)
    # A beginning of it is a leak as well as an end.
    assert "Kq7" not in shown and "zW9" not in shown, (text, shown)  # noqa: PT018
    assert "***" in shown
    assert masked(shown) == shown


@examples(150)
@given(
    password=PASSWORDS,
    user=st.sampled_from(["", "ada", "a%40b"]),
    tail=st.sampled_from(["", "/db", "/db?sslmode=require", ":5432,h2/db"]),
)
def test_a_password_in_a_url_never_survives(password: str, user: str, tail: str) -> None:
    url = f"postgresql://{user}:{quote(password, safe='')}@host{tail}"
    assert "password" in dsn.parse(url).parameters
    assert_gone(password, f"before {url} after")
    assert_gone(password, f"before postgresql://{user}@host/db?password={quote(password, safe='')}&x=y after")


@examples(150)
@given(password=PASSWORDS)
def test_a_password_that_stands_raw_in_a_url_never_survives(password: str) -> None:
    # libpq ends it at the first @ or /, and before 18 takes whatever else there is.
    raw = re.sub(r"[@/%\n\r]", "-", password)
    url = f"postgresql://ada:{raw}@host/db"
    assert_gone(password, f"could not use {url}, sorry")


@examples(200)
@given(
    password=PASSWORDS,
    before=st.sampled_from(["", "host=h "]),
    after=st.sampled_from(["", " user=u", " application_name='a b'"]),
)
def test_a_password_in_pairs_never_survives(password: str, before: str, after: str) -> None:
    pairs = before + conninfo.make_conninfo("", password=password) + after
    assert_gone(password, pairs)
    assert "user=u" in masked(pairs) or "user=u" not in after
    # As a statement holds it, and its text in JSON.
    statement = (
        sql.SQL("CREATE SUBSCRIPTION s CONNECTION {} PUBLICATION p").format(sql.Literal(pairs)).as_string()
    )
    assert_gone(password, statement)
    assert "PUBLICATION p" in masked(statement)
    assert_gone(password, sql.SQL("ALTER ROLE r PASSWORD {}").format(sql.Literal(password)).as_string())
    assert_gone(password, json.dumps({"password": password, "user": "u"}))
    assert_gone(password, repr({"password": password}))
    escaped = re.sub(r"([\\'\s])", r"\\\1", password)
    assert_gone(password, f"{before}password={escaped}{after}")


@examples(200)
@given(text=TEXT)
def test_an_innocent_text_is_left_as_it_is(text: str) -> None:
    assume(not re.search(r"passw|://|X-Amz", text, re.IGNORECASE))
    for whole in (
        text,
        f"host=h {text.replace('=', '')}",
        f"see https://example.org:8443/a and {text.replace('@', '')}",
    ):
        assert masked(whole) == whole


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ada@host:5432/db",
        "postgresql://host:5432/db, then ask ada@example.org",
        "postgresql://h1:5432,h2:5433/db?user=a@b",
        "https://example.org:8443/path@2x.png",
        "the password of role ada is refused",
        'password authentication failed for user "ada"',
        "password: {secret: {env: SOURCE_PASSWORD}}",
    ],
)
def test_what_holds_no_password_is_left_as_it_is(text: str) -> None:
    assert masked(text) == text


@examples(150)
@given(value=TEXT.filter(lambda text: len(text.strip()) >= 6))
def test_a_hushed_value_never_survives_in_any_writing(value: str) -> None:
    hush(value)
    try:
        for form in (
            value,
            json.dumps(value),
            quote(value, safe=""),
            value.replace("'", "''"),
            sql.Literal(value).as_string(),
        ):
            assert value not in hushed(f"<{form}>")
            assert form.strip("\"'") not in hushed(f"<{form}>")
    finally:
        speak()


@examples(150)
@given(
    given_pairs=st.dictionaries(
        st.sampled_from(["host", "user", "dbname", "application_name", "port"]), TEXT, max_size=4
    ),
    password=PASSWORDS,
)
def test_a_dsn_without_its_password_is_the_same_otherwise(given_pairs: dict[str, str], password: str) -> None:
    text = conninfo.make_conninfo("", **{**given_pairs, "password": password})
    left = conninfo.conninfo_to_dict(dsn.without_password(text))
    assert left == {
        name: value for name, value in conninfo.conninfo_to_dict(text).items() if name != "password"
    }


@examples(300)
@given(
    text=TEXT
    | st.lists(
        st.sampled_from([*"=':/@?&%\\ ,[]", "host", "password", "postgresql://", "user", "%41", "''"]),
        max_size=12,
    ).map("".join)
)
def test_what_is_read_as_a_dsn_is_what_libpq_reads(text: str) -> None:
    ours = dsn.parse(text)
    dsn.without_password(text)
    if ours.faults:
        return
    try:
        theirs = conninfo.conninfo_to_dict(text)
    except psycopg.Error:
        pytest.fail(f"libpq refuses {text!r}, and nothing is said about it")
    assert {k: v for k, v in ours.parameters.items() if v} == {k: v for k, v in theirs.items() if v}


# Numbers with units, positions


@examples(200)
@given(value=st.integers(0, 2**64 - 1))
def test_every_position_comes_back(value: int) -> None:
    assert Lsn.parse(str(Lsn(value))) == Lsn(value)
    assert Lsn.parse(str(Lsn(value)).lower()) - Lsn(value) == 0


@examples(300)
@given(text=st.text(max_size=20) | st.text("0123456789abcdefABCDEF/ \n", max_size=20))
def test_what_is_no_position_is_refused(text: str) -> None:
    fits = re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text, re.ASCII)
    if fits and "\n" not in text:
        assert 0 <= Lsn.parse(text).value < 2**64
        return
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


@examples(300)
@given(
    number=st.text("0123456789.٣೧", max_size=12) | st.integers(0, 10**400).map(str),
    unit=st.sampled_from(["ms", "s", "m", "h", "d", "w", "B", "kB", "MB", "GB", "TB", "PB", "", " s", "s\n"]),
)
def test_a_size_or_duration_is_a_sensible_number_or_refused(number: str, unit: str) -> None:
    for parse in (seconds, size, span):
        try:
            found = parse(number + unit)
        except ValueError:
            continue
        count = found if isinstance(found, int | float) else found.total_seconds()
        assert 0 <= count < 1e30
        assert (number + unit).isascii()
        assert not unit.endswith("\n")


# State, control, journal, preview

STATE = State(
    lineage="l",
    serial=3,
    plan="orders",
    plan_digest="d",
    plan_id="3fa1",
    steps={
        "copy": StepState(
            uses="snapshot",
            status=StepStatus.RUNNING,
            started=datetime(2026, 1, 2, tzinfo=UTC),
            progress={"rows": 1},
        )
    },
    approvals=(
        ApprovalRecord(
            step="copy", action="", digest="d", who="w", why="y", when=datetime(2026, 1, 2, tzinfo=UTC)
        ),
    ),
    facts={"servers": {"source": "16"}},
)


@examples(400)
@given(tree=damaged({k: v for k, v in json.loads(to_json(STATE)).items() if k != "checksum"}))
def test_a_state_with_a_right_checksum_and_odd_contents_is_refused_or_whole(tree: Any) -> None:
    try:
        text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        tree["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        written = json.dumps(tree)
    except ValueError:
        written = json.dumps(tree)
    try:
        loaded = from_json(written)
    except StateUnfit:
        return
    assert from_json(to_json(loaded)) == loaded
    assert all(isinstance(step.status, StepStatus) for step in loaded.steps.values())


CONTROL = {
    "paused": True,
    **dict.fromkeys(control.LIMITS, 2),
    "who": "w",
    "when": "2026-01-01T00:00:00+00:00",
}


@examples(200)
@given(tree=damaged(CONTROL) | JSON)
def test_a_control_file_of_odd_contents_is_refused_or_understood(tree: Any) -> None:
    try:
        found = control.from_json(json.dumps(tree), "control.json")
    except StateUnfit:
        return
    str(found)
    assert control.from_json(control.to_json(found), "control.json") == found


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\ud800", ""])
def test_json_that_breaks_its_reader_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "preview.json").write_text(text, "utf-8", "surrogatepass")
    with pytest.raises(PlanrunnerError):
        read(tmp_path / "preview.json")
    with pytest.raises(StateUnfit):
        control.from_json(text, "control.json")
    with pytest.raises(StateUnfit):
        from_json(text)
    assert list(parsed([text.encode("utf-8", "surrogatepass")])) == []


EVENT = json.loads(
    Event(
        serial=7,
        at=datetime(2026, 1, 2, tzinfo=UTC),
        kind=EventKind.NEWS,
        step="copy",
        message="m",
        fields={"rows": 1},
    ).to_json()
)


@examples(300)
@given(tree=damaged(EVENT) | JSON, noise=st.binary(max_size=20), cut=st.integers(0, 60))
def test_a_journal_with_damaged_lines_gives_the_whole_ones(tree: Any, noise: bytes, cut: int) -> None:
    whole = json.dumps(EVENT).encode()
    found = list(parsed([whole, json.dumps(tree).encode(), noise, whole[:cut], whole]))
    assert found[0] == found[-1]
    assert found[0].message == "m"
    for event in found:
        assert type(event.serial) is int
        assert event.at.tzinfo is not None
        assert isinstance(event.message, str)
        assert event.step is None or isinstance(event.step, str)
        assert isinstance(event.fields, dict)
    max(event.serial for event in found)
    sorted(event.at for event in found)


SIDE = {
    "version": 160014,
    "system_identifier": "1",
    "database": "a",
    "user": "u",
    "in_recovery": False,
    "parameters": {"wal_level": "logical"},
    "catalogue": "c",
    "tables": {"public.a": "1"},
    "others": ["relation public.b"],
}
PREVIEW = {
    "kind": KIND,
    "format_version": FORMAT_VERSION,
    "planrunner": "1",
    "at": "2026-01-01T00:00:00+00:00",
    "plan": {"name": "a", "digest": "d", "id": "i"},
    "state": {"lineage": "l", "serial": 1},
    "offline": False,
    "seen": {"source": SIDE, "target": {**SIDE, "catalogue": "d"}, "rds": {"status": "available"}},
    "steps": [
        {
            "id": "copy",
            "status": "pending",
            "begun": False,
            "problem": None,
            "findings": [{"mark": "fail", "text": "t 1", "mended_by_step": None, "ignored": False}],
            "actions": [
                {"name": "n", "summary": "s", "statements": ["SELECT 1"], "recovery": False, "verdict": "do"}
            ],
        }
    ],
}


@examples(400)
@given(tree=damaged(PREVIEW))
def test_a_saved_preview_of_odd_contents_is_refused_or_compared(
    tree: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "odd.json").write_text(json.dumps(tree))
    (folder / "right.json").write_text(json.dumps({**PREVIEW, "state": {"lineage": "l", "serial": 2}}))
    try:
        found = compared(read(folder / "odd.json"), read(folder / "right.json"))
    except PlanrunnerError:
        return
    assert all(isinstance(line, str) for line in found)


# Files of variables


@examples(120)
@given(
    tree=st.dictionaries(st.sampled_from(["host", "port", "flag"]) | st.text(max_size=5), JSON, max_size=4)
    | JSON
)
def test_a_file_of_odd_variables_is_told_or_used(tree: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    plan = Path(__file__).parents[1] / "data" / "valid" / "small.yaml"
    (folder / "values.yaml").write_text(json.dumps(tree), "utf-8", "surrogatepass")
    try:
        load(plan, variables={"host": "a"}, var_files=[folder / "values.yaml"], environ={})
    except PlanInvalid:
        return
    finally:
        speak()


# A webhook's answers


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """Somebody who answers with these bytes to whatever is sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            line, _ = server.accept()
            with line:
                line.recv(65_536)
                try:
                    line.sendall(answer)
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


ANSWERS = [
    *(b"", b"\0" * 1_000, b"HTTP/1.1", b"HTTP/1.1 abc\r\n\r\n", b"HTTP/9.9 200 OK\r\n\r\n", b"220 smtp\r\n"),
    b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/SECRET0815\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n",
    b"HTTP/1.1 401 SECRET0815\r\n\r\n",
    b"HTTP/1.1 500 x\r\nContent-Length: 99999999999999\r\n\r\nSECRET0815",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5_000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n" * 200,
    b"HTTP/1.1 -1 OK\r\n\r\n",
    b"HTTP/1.1 200 \xff\xfe\r\n\xff: \xff\r\n\r\n",
    b"HTTP/1.1 500 \x1b[2J\r\n\r\n",
]


@pytest.mark.parametrize("answer", ANSWERS, ids=range(len(ANSWERS)))
def test_an_odd_answer_to_a_webhook_is_a_failure_that_shows_nothing(answer: bytes) -> None:
    with answering(answer) as port:
        told = ""
        try:
            post(f"http://127.0.0.1:{port}/SECRET0815", {"a": "b"}, {"Authorization": "SECRET0816"}, 20)
        except ToolFailed as error:
            told = f"{error.message} {error.remedy} {error.__cause__}"
    assert "SECRET" not in told
    assert told.isprintable()
