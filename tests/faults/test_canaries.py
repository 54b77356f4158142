"""Nearly a hundred secrets come into a migration by every door, and none comes out, however a command ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults import canary_cases as cases
from tests.faults import canary_leaks as leaks
from tests.faults.canaries import SHAPES, Canaries
from tests.faults.canary_place import Place, furnished, watched
from tests.faults.canary_plan import ONLOOKER
from tests.faults.canary_search import PROGRAMS, SEARCHES, calls, written
from tests.faults.canary_wrong import wrong_plan

if TYPE_CHECKING:
    from collections.abc import Iterator

# One migration for all, so one worker.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("canaries")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with furnished(tmp_path_factory.mktemp("canaries")) as made:
        yield made


@pytest.fixture(scope="module")
def migrated(place: Place) -> Place:
    """Every command of a migration went well, and every one has failed."""
    with watched(place):
        for case in cases.MAIN:
            case.perform(place)
            place.note_made()
        for wrong in ("a wrong password", "AWS shows the request"):
            plan, environment = wrong_plan(place, wrong)
            for verb, words in cases.CONNECTING.items():
                case = cases.Case(verb=verb, words=(plan, "--var-file", "values.yaml", *words), code=None)
                case.perform(place, **environment)
        place.note_made()
    return place


def test_every_command_has_a_case_that_goes_well_and_one_that_fails() -> None:
    every = set(cases.commands())
    assert {"run", "state mark"} < every
    assert {case.verb for case in cases.all_good()} == every - set(cases.ELSEWHERE)
    assert {case.verb for case in cases.all_bad()} == every


@pytest.mark.parametrize("where", SEARCHES)
def test_no_secret_comes_out(migrated: Place, where: str) -> None:
    assert SEARCHES[where](migrated) == []


def test_there_was_something_to_be_found(migrated: Place) -> None:
    known = migrated.canaries.known
    assert len(known) >= 60
    for kind in ("generated", "assumed role"):
        assert sum(name.startswith(kind) for name in known) >= 2
    assert len(written(migrated)) >= 7
    assert all(calls(migrated, program) for program in PROGRAMS)
    assert calls(migrated, "hook.sh")
    assert len(migrated.seen) > 30
    assert len(migrated.ledgers) > 10
    assert len(migrated.notified) >= 4
    for server in (migrated.source, migrated.target):
        log = server.log.read_text("utf-8", "replace")
        assert "CREATE SUBSCRIPTION" in log
        with migrated.session(server) as session:
            assert len(session.execute("SELECT FROM pg_stat_statements").fetchall()) > 20
    assert list((migrated.folder / "tmp").iterdir()) == []


def test_others_can_not_read_what_a_subscription_dials(migrated: Place) -> None:
    for server in (migrated.source, migrated.target):
        with (
            psycopg.connect(server.dsn("onlooker", "app", password=ONLOOKER)) as session,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            session.execute("SELECT subconninfo FROM pg_subscription")


@pytest.mark.parametrize("how", leaks.FORMS)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_search_finds_a_secret_in_any_form(shape: str, how: str) -> None:
    canaries = Canaries()
    secret = canaries.new("planted", shape)
    text = f"something before it {leaks.FORMS[how](secret)} and after"
    assert canaries.met(text, laid_out=True)
    canaries.known = {"other": Canaries(first=1).new("other")}
    assert canaries.met(text, laid_out=True) == []


@pytest.mark.parametrize("kind", leaks.LEAKS)
def test_the_search_finds_what_a_command_leaks(migrated: Place, kind: str) -> None:
    before = {*written(migrated)}
    place = leaks.leaked(migrated, kind)
    try:
        found = SEARCHES[leaks.LEAKS[kind][0]](place)
        assert len(found) >= 1
        assert all("planted" in hit for hit in found)
        # Nothing of it is found by who does not know it.
        place.canaries.known = {"planted": Canaries(first=1).new("other")}
        assert SEARCHES[leaks.LEAKS[kind][0]](place) == []
    finally:
        for path in {*written(migrated)} - before:
            path.unlink()
