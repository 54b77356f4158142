"""Hostile names through a whole migration: every object arrives as it was, every row too, and nothing was executed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg import sql

from planrunner.model import Side
from planrunner.postgres import catalog
from planrunner.replication import copy
from planrunner.replication.feeds import Psql
from planrunner.replication.units import Unit
from tests.acceptance.helpers import contents
from tests.browser import page
from tests.faults import hostile_world as world
from tests.faults import scene
from tests.faults.hostile_canary import outside_of_quotes, sung
from tests.faults.hostile_kinds import KINDS, found
from tests.faults.hostile_names import CANARY, NAMES
from tests.faults.hostile_world import PLACES, ROWS, TWINS, Place, patiently
from tests.faults.test_hostile_databases import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


pytestmark = pytest.mark.timeout(3600)
# What a terminal acts upon, and what turns a line round; newlines and tabs stay.
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
Answers = dict[str, tuple[int, str]]


@dataclass(frozen=True, kw_only=True)
class Story:
    """A migration there and back, as it was seen from outside.

    ``before`` and ``after`` are the catalogues of the source at the start and of the target after the cutover, by
    kind; ``rows`` what both sides held at each moment, the source's first; ``said`` each command's exit code and words.
    """

    one: scene.Migration
    ways: tuple[str, ...]
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    rows: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    said: Answers = field(default_factory=dict)


LOGGED = {
    "log_statement": "all",
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_directory": "log",
    "log_rotation_size": "0",
    "max_locks_per_transaction": "1024",
}
# What is only followed in part has no way back.
BACK = ("full", "index")
WAYS = {BACK: (), (*BACK, "insert_only", "copy_at_cutover"): (pytest.mark.soak,)}


# Each way is one migration's, so one worker's.
@pytest.fixture(
    scope="module",
    params=[
        pytest.param(ways, marks=[pytest.mark.xdist_group("-".join(ways)), *marks])
        for ways, marks in WAYS.items()
    ],
    ids="-".join,
)
def story(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder, ways = tmp_path_factory.mktemp("hostile"), request.param
    reverse = "true" if ways == BACK else "false"
    over = f"{{reverse: {reverse}, lock_timeout: 2s, write_pause_budget: 120s}}"
    script, options = world.script(), world.options(ways)
    with (
        scene.servers(LOGGED, LOGGED) as pair,
        scene.migration(pair, folder, "names", script, copy=options, over=over) as one,
    ):
        told = Story(one=one, ways=ways, before=found(one.ours), after={})
        _there(told)
        if ways == BACK:
            _back(told)
        told.said["cleanup"] = patiently(one, "cleanup", "--yes", "--no-input")
        yield told


def _there(told: Story) -> None:
    one = told.one
    for form in ("text", "markdown", "json"):
        told.said[f"preview {form}"] = patiently(one, "preview", "--format", form)
    told.said["run"] = patiently(one, "run", "--until", "follow", "--no-input")
    assert told.said["run"][0] == 0, told.said["run"][1][-3000:]
    _write(told, one.ours, ours=True)
    _spoil(one.theirs)
    told.said["verify spoilt"] = patiently(one, "verify", "--output", "json", "--no-input")
    told.said["repair"] = patiently(one, "verify", "--repair", "--yes", "--no-input")
    told.said["verify mended"] = patiently(one, "verify", "--output", "json", "--no-input")
    named = [word for place in PLACES[::9] for word in ("--tables", world.written(*place.main))]
    told.said["verify tables"] = patiently(one, "verify", "--output", "json", *named)
    told.said["status"] = patiently(one, "status")
    told.said["status json"] = patiently(one, "status", "--output", "json")
    told.said["cutover"] = patiently(one, "run", "--no-input", "--output", "json")
    assert told.said["cutover"][0] == 0, told.said["cutover"][1][-3000:]
    object.__setattr__(told, "after", found(one.theirs))
    told.rows["cutover"] = contents(one.ours), contents(one.theirs)
    for form in ("html", "markdown", "json"):
        told.said[f"report {form}"] = patiently(one, "report", "--format", form)


def _back(told: Story) -> None:
    one = told.one
    _write(told, one.theirs, ours=False)
    told.said["rollback"] = patiently(one, "rollback", "--yes", "--no-input")
    assert told.said["rollback"][0] == 0, told.said["rollback"][1][-3000:]
    told.rows["rollback"] = contents(one.ours), contents(one.theirs)


def _write(told: Story, dsn: str, *, ours: bool) -> None:
    """Insert, update and delete in every table; truncate those that nothing refers to."""
    for place in PLACES:
        # A connection each: what one server's backend holds of 125 schemas' caches is no part of the case.
        with psycopg.connect(dsn) as session:
            for statement in _changes(place, world.way(place, told.ways), ours=ours):
                session.execute(statement)


def _changes(place: Place, way: str, *, ours: bool) -> Iterator[sql.Composed]:
    main, bare, key, text = place.named(0), place.named(11), place.column(0), place.column(1)
    last = ROWS if ours else ROWS - 1
    yield sql.SQL("DELETE FROM {} WHERE {} = {}").format(main, key, sql.Literal(last))
    yield sql.SQL("UPDATE {} SET {} = {} || {} WHERE {} = 6").format(
        main, text, text, sql.Literal(place.name(12)), key
    )
    yield sql.SQL("INSERT INTO {} ({}, {}) VALUES ({}, {})").format(
        main, text, place.column(3), sql.Literal(f"{place.name(13)}{ours}"), sql.Literal(place.name(14))
    )
    yield sql.SQL("UPDATE {} SET {} = {} WHERE {} = 3").format(
        place.named(7), text, sql.Literal(place.name(1 if ours else 0)), key
    )
    if way in BACK:
        yield sql.SQL("TRUNCATE {}").format(bare)
        yield sql.SQL("INSERT INTO {} VALUES (1, {}), (2, NULL)").format(bare, sql.Literal(place.name(2)))
        yield sql.SQL("UPDATE {} SET {} = {} WHERE {} = 2").format(
            bare, text, sql.Literal(place.name(3)), key
        )
    elif ours:
        yield sql.SQL("INSERT INTO {} VALUES (6, {})").format(bare, sql.Literal(place.name(2)))


def _spoil(dsn: str) -> None:
    """Let every table of the target differ: one row changed, one gone, one too many."""
    with psycopg.connect(dsn) as session:
        session.execute("SET session_replication_role = replica")
        for place in PLACES:
            main, key, text = place.named(0), place.column(0), place.column(1)
            session.execute(
                sql.SQL("UPDATE {} SET {} = {} || {} WHERE {} = 2").format(
                    main, text, text, sql.Literal(place.name(15)), key
                )
            )
            session.execute(sql.SQL("DELETE FROM {} WHERE {} = 3").format(main, key))
            session.execute(
                sql.SQL("INSERT INTO {} ({}, {}) VALUES (1000000, {})").format(
                    main, key, text, sql.Literal(place.name(16))
                )
            )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_name_arrives(kind: str, story: Story, record_property: Callable[[str, object], None]) -> None:
    wanted = KINDS[kind]
    ours, theirs = story.before[kind], story.after[kind]
    expected = [wanted.of(place) for place in PLACES]
    lost = [key for key in expected if key not in ours]
    assert lost == [], "the world lacks what is to be carried"
    record_property("cases", len(expected))
    if wanted.carried:
        assert {key: theirs.get(key) for key in expected} == {key: ours[key] for key in expected}
    else:
        assert [key for key in expected if key in theirs] == []


def test_at_least_so_many_names_of_so_many_kinds() -> None:
    assert len({hostile.name for hostile in NAMES}) == len(NAMES) >= 120
    assert all(hostile.why and 1 <= len(hostile.name.encode()) <= 63 for hostile in NAMES)
    assert len(NAMES) * len(KINDS) >= 1080


@pytest.mark.parametrize("moment", ["cutover", "rollback"])
def test_every_row_arrives(moment: str, story: Story, record_property: Callable[[str, object], None]) -> None:
    if moment not in story.rows:
        pytest.skip("a migration without a way back")
    ours, theirs = story.rows[moment]
    fates = {f"{p.spare[0]}.{p.spare[1]}": _fate(p) for p in PLACES if world.has_spare(p)}
    told = {name: fates.get(name, "whole") for name in ours}
    record_property("cases", len(told))
    whole = {name for name, fate in told.items() if fate == "whole"}
    assert {name: theirs.get(name) for name in whole} == {name: ours[name] for name in whole}
    assert all(ours[name][0] > 0 for name in whole), "an empty table proves nothing"
    assert not [name for name, fate in told.items() if fate == "out" and name in theirs]
    assert not [name for name, fate in told.items() if fate == "empty" and theirs[name][0] != 0]
    assert {theirs[name][0] for name, fate in told.items() if fate == "rows"} == {ROWS - ROWS // 2}


def _fate(place: Place) -> str:
    fates = (("out", world.left_out), ("empty", world.empty), ("rows", world.filtered))
    return next((word for word, holds in fates if holds(place)), "whole")


def test_tables_of_one_spelling_are_told_apart(story: Story) -> None:
    ours, theirs = story.rows["cutover"]
    with psycopg.connect(story.one.ours) as session:
        for number, twin in enumerate(TWINS):
            stored = sql.Identifier(twin[0], f"{twin[1]} seen")
            row = session.execute(sql.SQL("SELECT count(*) FROM {}").format(stored)).fetchone()
            assert row == (number + 1,)
    assert ours == ours | {name: theirs[name] for name in map(".".join, TWINS)}


def test_a_difference_in_every_table_is_found_and_mended(story: Story) -> None:
    code, said = story.said["verify spoilt"]
    assert code == 7, said[-2000:]
    seen = {row["table"]: row["total"] for row in _json(said)["rows"]}
    assert len(seen) == len(PLACES)
    assert set(seen.values()) == {3}
    assert story.said["repair"][0] == 0, story.said["repair"][1][-2000:]
    code, said = story.said["verify mended"]
    assert code == 0, said[-2000:]
    code, said = story.said["verify tables"]
    assert code == 0, said[-2000:]
    assert len(_json(said)["tables"]) == len(PLACES[::9])


def _json(said: str) -> Any:
    """What was written to stdout; notes and the error's words stand before or behind it."""
    begins = re.search(r"^\{$", said, re.MULTILINE)
    assert begins is not None, said[-1000:]
    return json.JSONDecoder().raw_decode(said, begins.start())[0]


def test_every_command_went_well(story: Story) -> None:
    failed = {name: said[-1500:] for name, (code, said) in story.said.items() if code != 0}
    failed.pop("verify spoilt")
    assert failed == {}


def test_what_is_written_for_people_moves_no_cursor_and_forges_no_line(story: Story) -> None:
    for name, (_, said) in story.said.items():
        assert RAW.findall(said) == [], name
        # HTML has no lines, and in Markdown statements stand in a fence, as they are.
        if not any(form in name for form in ("json", "markdown", "html")):
            assert [
                line for line in said.split("\n") if line.startswith(("; SELECT", "GRANT", "\\!"))
            ] == [], name


def test_what_is_written_for_programs_is_well_formed(story: Story) -> None:
    folder = story.one.folder
    for name in ("preview json", "status json", "report json", "verify mended"):
        assert _json(story.said[name][1])
    state = (folder / "plan.yaml.state.json").read_text("utf-8")
    events = (folder / "plan.yaml.events.jsonl").read_text("utf-8")
    assert json.loads(state)
    assert RAW.findall(state + events) == []
    lines = [json.loads(line) for line in events.splitlines()]
    assert [line["serial"] for line in lines] == list(range(1, len(lines) + 1))


def test_every_table_is_read_by_psql_too(
    story: Story, record_property: Callable[[str, object], None]
) -> None:
    """Bigger tables go by a psql child, whose own lexer reads the statement first."""
    one = story.one
    with psycopg.connect(one.ours) as keeper, opened(one, Side.SOURCE) as source:
        row = keeper.execute("SELECT pg_export_snapshot() FROM txid_current()").fetchone()
        assert row is not None
        psql = Psql.find(source)
        assert psql is not None
        tables = {(table.schema, table.name): table for table in catalog.tables(source)}
        for place in PLACES:
            count = sql.SQL("SELECT count(*) FROM {}").format(place.named(0))
            unit = Unit(table=tables[place.main])
            with psql.feed(source, row[0], copy.outgoing(unit)) as feed:
                assert sum(map(len, feed.blocks())) > 0
                assert (feed.rows(),) == keeper.execute(count).fetchone()
    record_property("cases", len(PLACES))


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_is_a_page_that_runs_nothing(width: int, story: Story, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(story.said["report html"][1], "utf-8")
    with page() as browser:
        browser.open(path, width=width)
        assert browser.tells("document.scripts.length") == 0
        assert browser.tells("document.querySelectorAll('img, iframe, object, embed, link').length") == 0
        assert browser.tells("document.documentElement.scrollWidth") <= width
        assert browser.tells("document.querySelectorAll('#verification tbody th').length") >= len(PLACES)
        assert set(browser.requests) == {path.as_uri()}
        assert browser.complaints == []


def test_nothing_was_executed(story: Story) -> None:
    one = story.one
    assert [left for left in one.left() if left.removeprefix("publication ") not in world.WORDS] == []
    for dsn in (one.ours, one.theirs):
        assert sung(dsn) == ["silence"]
    folders = (one.folder, one.source.folder, one.target.folder)
    assert [path for folder in folders for path in folder.rglob(f"*{CANARY}*")] == []
    for server in (one.source, one.target):
        statements = list(server.data.glob("log/*.json"))
        assert statements
        assert [bad for path in statements for bad in outside_of_quotes(path)] == []


@pytest.mark.parametrize("song", ['"; SELECT sing_5e1f(); --', "'; SELECT sing_5e1f(); --"])
def test_the_canary_is_heard(song: str, story: Story, tmp_path: Path) -> None:
    """Statements put together by hand do what ours must not, and are found."""
    pair = story.one.source, story.one.target
    with scene.migration(pair, tmp_path, "heard", world.canary()) as careless:
        with psycopg.connect(careless.ours, autocommit=True) as session:
            for template in ('SELECT 1 AS "x{}"', "SELECT 'x{}'"):
                session.execute(template.format(song))  # type: ignore[call-overload]
        assert len(sung(careless.ours)) == 2
    logs = [bad for path in pair[0].data.glob("log/*.json") for bad in outside_of_quotes(path)]
    assert [bad for bad in logs if song in bad]
