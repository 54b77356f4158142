"""Tasks travel without a secret, and the sessions of a place are lent to one task at a time."""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from psycopg import sql

from planrunner.model import Endpoint, Secret, SecretKind, SecretRef, Side
from planrunner.postgres.catalog import ANY_TABLE
from planrunner.replication import shift
from planrunner.replication.building import Build, Piece
from planrunner.replication.copy import Chunk
from planrunner.replication.jobs import Job
from planrunner.replication.regions import Survey, Tract
from planrunner.replication.snapshot import NamedSnapshot
from planrunner.replication.tasks import BuildTask, CopyTask, LeasedSite, Site, Streams, SurveyTask
from planrunner.replication.units import KeyRange, Unit

if TYPE_CHECKING:
    from planrunner.replication.freezing import Stand
    from planrunner.replication.instant import Instant
    from planrunner.replication.tasks import Task


def endpoint(side: Side) -> Endpoint:
    password = SecretRef(kind=SecretKind.ENV, locator="PGSECRET")
    return Endpoint(side=side, dsn=f"postgresql://me@{side.value}.example.com/app", password=password)


SITE = LeasedSite(
    source=endpoint(Side.SOURCE),
    target=endpoint(Side.TARGET),
    plan_id="0123abcd",
    epoch=7,
    kind="copy",
    shift="cafe",
    code="beef",
)
PART = KeyRange(number=2, column="id", type="bigint", low="5", high=None)
JOB = Job(units=(Unit(table=ANY_TABLE, part=PART, parts=3),), chunk=Chunk(number=1, of=2, first=0, last=9))
TASK = CopyTask(site=SITE, generation=3, token="00000003-0000001B-1", job=JOB)


BUILD = BuildTask(
    site=SITE,
    build=Build(
        preamble="SET x = y;",
        memory="64MB",
        pieces=(Piece(sql="CREATE INDEX i ON s.t (a);", key="INDEX s i", type="INDEX"),),
        analyzing=(ANY_TABLE,),
    ),
)
SURVEY = SurveyTask(
    site=Site(
        source=SITE.source,
        target=SITE.target,
        plan_id=SITE.plan_id,
        kind="survey/beef",
        shift="beef",
    ),
    tracts=(Tract(table=ANY_TABLE, within=sql.SQL("{} > {}").format(sql.Identifier("a"), sql.Literal(7))),),
    moving=True,
)
TASKS = pytest.mark.parametrize("task", [TASK, BUILD, SURVEY], ids=["copy", "build", "survey"])


@TASKS
def test_a_task_arrives_as_it_was_sent(task: Task) -> None:
    assert pickle.loads(pickle.dumps(task)) == task


@TASKS
def test_a_task_travels_with_the_reference_of_a_password_and_never_with_the_password(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSECRET", "verysecretindeed")
    assert b"PGSECRET" in pickle.dumps(task)
    assert b"verysecretindeed" not in pickle.dumps(task)
    assert "verysecretindeed" not in repr(task) + str(task)


def test_what_a_survey_found_arrives_as_it_was_sent() -> None:
    found = Survey(source_rows=3, target_rows=2, different=True, within=SURVEY.tracts[0].within)
    assert pickle.loads(pickle.dumps(found)) == found


def test_a_task_with_a_resolved_secret_does_not_travel() -> None:
    wrong = replace(SITE.source, password=cast("Any", Secret("verysecretindeed")))
    with pytest.raises(TypeError, match="a secret is not serialised"):
        pickle.dumps(replace(TASK, site=replace(SITE, source=wrong)))


def test_what_a_task_holds_names_epoch_and_shift_and_locks_both() -> None:
    text = shift.hold(SITE).as_string()
    assert "'0123abcd'" in text
    assert "epoch = 7" in text
    assert "= 'cafe'" in text
    assert text.endswith("FOR SHARE")
    assert "FOR SHARE" not in shift.look(SITE).as_string()


def test_workers_are_called_so_that_whoever_takes_over_ends_them() -> None:
    assert SITE.crew == "0123abcd/copy"
    assert SURVEY.site.crew == "0123abcd/survey/beef"


def instant(generation: int, token: str | Stand) -> Instant:
    return NamedSnapshot(server=cast("Any", None), generation=generation, name=str(token))


def test_a_session_at_rest_is_used_again_for_the_same_snapshot_only() -> None:
    # Nothing is opened before something is copied.
    streams = Streams(cast("Any", None), instant)
    with streams.one(1, "a") as first, streams.one(1, "a") as second:
        assert second is not first
    with streams.one(1, "a") as again:
        assert again is first
    with streams.one(2, "b") as other:
        assert other not in (first, second)
    with streams.one(1, "a") as left:
        assert left is first


def test_a_session_whose_task_failed_is_not_used_again() -> None:
    streams = Streams(cast("Any", None), instant)
    with pytest.raises(RuntimeError), streams.one(1, "a") as first:
        raise RuntimeError
    with streams.one(1, "a") as next_one:
        assert next_one is not first


def test_a_place_sheds_one_session_at_a_time_and_at_last_all() -> None:
    streams = Streams(cast("Any", None), instant)
    with streams.one(1, "a") as first, streams.one(1, "a") as second:
        pass
    streams.shed()
    with streams.one(1, "a") as one:
        assert one is first
    streams.close()
    streams.shed()
    with streams.one(1, "a") as new:
        assert new not in (first, second)
