"""Whole migrations over lines that break: on each leg, at what is said, while a client writes to the source all along."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.faults.breaking import execute
from tests.faults.legs import LEGS, RUN_SECONDS, Broken, broken
from tests.faults.scene import CLOCK, PATIENCE_SECONDS, frozen, servers

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

pytestmark = [pytest.mark.server, pytest.mark.timeout(900)]

soak = pytest.mark.soak
# The promise is 30 s. It takes about 24 s; the rest is for a machine that is busy.
NOTICED_SECONDS = 45
# The copy waits so long for a server that has gone away.
AWAY_SECONDS = 300
COMMITS = {"source": 40, "target": 80}


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with servers() as made:
        yield made


@pytest.fixture
def scene(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Broken]:
    # On a busy machine a pause takes seconds, and that is not what is tested here.
    options = {"over": "{write_pause_budget: 60s}", **getattr(request, "param", {})}
    with broken(pair, tmp_path, "moved", **options) as made:
        yield made


def through(scene: Broken, runs: int = 6) -> list[str]:
    """Run until it is through, over the line as it is; every stop on the way is a clear one. What each run said."""
    all_said = []
    for _ in range(runs):
        code, said = scene.run()
        all_said.append(said)
        if code == 0:
            scene.assert_moved()
            return all_said
        assert code == 1, said
        scene.assert_clear(said)
    raise AssertionError("\n=====\n".join(all_said))


# The replies that are lost: what each COMMIT is of, by a word of its transaction.
KINDS = {
    "source": {
        "publication": "CREATE PUBLICATION",
        "role of the subscription": "CREATE ROLE|ALTER ROLE",
        "marker": "INSERT INTO .planrunner.*barrier",
        "fence": "CREATE TRIGGER .planrunner_fence",
        "publication's end": "DROP PUBLICATION",
    },
    "target": {
        "lease": "INSERT INTO planrunner.lease",
        "schema": "'pre-data'",
        "unit": "INSERT INTO planrunner.unit",
        "index entry": "CREATE INDEX",
        "password handed over": '"handed_over": true',
        "subscription": "CREATE SUBSCRIPTION",
        "subscription's start": "SUBSCRIPTION .* ENABLE",
        "guard": "CREATE TRIGGER .planrunner_fence",
        "sequences": "setval",
        "target opened": "'opened'",
        "subscription's end": "DROP SUBSCRIPTION",
    },
}
# What the bounded suite does; each stands for its like.
BOUNDED = {"fence", "unit", "target opened"}


@pytest.mark.parametrize(
    ("leg", "kind"),
    [
        pytest.param(leg, kind, marks=() if kind in BOUNDED else soak)
        for leg, kinds in KINDS.items()
        for kind in kinds
    ],
)
def test_a_commit_whose_reply_is_lost_is_found_out_about(scene: Broken, leg: str, kind: str) -> None:
    scene.lines[leg].trap("commit", "lose", match=KINDS[leg][kind])
    said = through(scene)
    counts = scene.lines[leg].counts()
    assert (counts.sprung, counts.lost) == (1, 1)
    # Nothing is asked of an operator that the servers know.
    assert len(said) <= 2


@pytest.mark.parametrize("leg", ["source", "target"])
@pytest.mark.parametrize("nth", [pytest.param(n, marks=soak) for n in range(1, max(COMMITS.values()))])
def test_every_commit_whose_reply_is_lost_is_found_out_about(scene: Broken, leg: str, nth: int) -> None:
    if nth > COMMITS[leg]:
        pytest.skip("so many are not made on this side")
    scene.lines[leg].trap("commit", "lose", nth=nth)
    through(scene)


def test_the_reply_to_the_fence_s_commit_is_asked_for_and_the_cutover_goes_on(scene: Broken) -> None:
    scene.lines["source"].trap("commit", "lose", match=KINDS["source"]["fence"])
    assert len(through(scene)) == 1
    assert scene.clerk.fenced.wait(PATIENCE_SECONDS)
    assert scene.lines["source"].counts().lost == 1


def test_a_commit_of_the_fence_that_never_arrived_leaves_the_writers_on_the_source(scene: Broken) -> None:
    # Half of the message, and then a reset: the server never sees a COMMIT.
    scene.lines["source"].trap("commit", "reset", match=KINDS["source"]["fence"])
    code, said = scene.run()
    assert code == 1, said
    scene.assert_clear(said)
    assert "writers go on" in said
    assert scene.clerk.writes_on()
    scene.finishes()
    scene.assert_moved()


@pytest.mark.parametrize(
    ("leg", "event", "nth"),
    [
        pytest.param("source", "copydata", 1500, marks=soak),
        pytest.param("target", "copydata", 2, marks=soak),
        ("stream", "copydata", 20),
        pytest.param("source", "copydata", 1, marks=soak),
        pytest.param("target", "copydata", 1, marks=soak),
        pytest.param("stream", "copydata", 1, marks=soak),
        pytest.param("source", "parse", 3, marks=soak),
        pytest.param("target", "parse", 3, marks=soak),
        *[
            pytest.param(leg, "parse", n, marks=soak)
            for leg in ("source", "target")
            for n in range(10, 170, 12)
        ],
        *[pytest.param(leg, "bytes", n, marks=soak) for leg in LEGS for n in range(5_000, 300_000, 25_000)],
    ],
)
def test_a_reset_costs_a_retry(scene: Broken, leg: str, event: str, nth: int) -> None:
    scene.lines[leg].trap(event, "reset", nth=nth)
    through(scene)
    assert scene.lines[leg].counts().sprung <= 1


def test_a_reset_before_a_stream_of_the_copy_has_begun_costs_a_retry(scene: Broken) -> None:
    scene.lines["target"].trap("statement", "reset", match="SET synchronous_commit = off")
    assert len(through(scene)) == 1
    assert scene.lines["target"].counts().sprung == 1


@soak
def test_resets_of_parsed_statements_on_both_sides_cost_a_retry(scene: Broken) -> None:
    for leg in ("source", "target"):
        scene.lines[leg].trap("parse", "reset", nth=25)
    through(scene)
    assert [scene.lines[leg].counts().sprung for leg in ("source", "target")] == [1, 1]


def started(scene: Broken) -> subprocess.Popen[str]:
    return scene.one.start("run", "--yes", "--no-input")


def noticed(scene: Broken, words: str) -> None:
    """Wait until it is on record; fails where that takes longer than is promised."""
    give_up = CLOCK.monotonic() + NOTICED_SECONDS
    while words not in scene.told():
        assert CLOCK.monotonic() < give_up, scene.told()
        CLOCK.sleep(0.2)


@contextmanager
def swallowed(scene: Broken, leg: str, failpoint: str) -> Iterator[subprocess.Popen[str]]:
    """A run whose leg becomes a black hole at that point."""
    # The first passage alone: a point that is passed again would freeze it again.
    with frozen(scene.one, f"{failpoint}#1", "run", "--yes", "--no-input") as child:
        scene.lines[leg].set(mode="hole")
        child.send_signal(signal.SIGCONT)
        yield child


@pytest.mark.parametrize(
    ("leg", "failpoint"),
    [
        ("source", "copy.before_commit"),
        pytest.param("target", "copy.after_commit", marks=soak),
        pytest.param("target", "copy.before_commit", marks=soak),
        pytest.param("source", "schema.before_commit", marks=soak),
        pytest.param("target", "schema.before_commit", marks=soak),
        pytest.param("source", "login.password_set", marks=soak),
        pytest.param("target", "login.password_set", marks=soak),
        pytest.param("target", "cutover.guarded", marks=soak),
    ],
)
def test_a_black_hole_is_noticed_within_half_a_minute_and_the_run_goes_on_after_it(
    scene: Broken, leg: str, failpoint: str
) -> None:
    got_over(scene, leg, failpoint)


@soak
@pytest.mark.parametrize("scene", [{"over": "{verify: changed, write_pause_budget: 60s}"}], indirect=True)
def test_a_black_hole_when_the_tracker_s_slot_was_made_is_noticed_and_got_over(scene: Broken) -> None:
    got_over(scene, "source", "tracker.slot_made")


def got_over(scene: Broken, leg: str, failpoint: str) -> None:
    """A black hole from that point on is noticed, and the run goes on once it is none any more."""
    with swallowed(scene, leg, failpoint) as child:
        noticed(scene, f"{leg}: 127.0.0.1:{scene.lines[leg].port} has answered nothing for")
        scene.heal()
        said, _ = child.communicate(timeout=RUN_SECONDS)
    scene.assert_clear(said)
    assert "firewall" in scene.told()
    if child.returncode != 0:
        scene.finishes()
    scene.assert_moved()


@soak
def test_a_black_hole_that_stays_ends_the_run_with_a_clear_error(scene: Broken) -> None:
    with swallowed(scene, "target", "copy.before_commit") as child:
        said, _ = child.communicate(timeout=RUN_SECONDS + AWAY_SECONDS)
    assert child.returncode == 1, said
    scene.assert_clear(said)
    assert f"127.0.0.1:{scene.lines['target'].port}" in said
    scene.heal()
    scene.finishes()
    scene.assert_moved()


@pytest.mark.parametrize(
    ("leg", "failpoint"),
    [
        ("source", "cutover.fenced"),
        pytest.param("target", "cutover.fenced", marks=soak),
        pytest.param("stream", "cutover.fenced", marks=soak),
        pytest.param("source", "cutover.barrier_passed", marks=soak),
        pytest.param("target", "cutover.barrier_passed", marks=soak),
    ],
)
@pytest.mark.parametrize("scene", [{"over": "{write_pause_budget: 10s}"}], indirect=True)
def test_a_black_hole_inside_the_fence_costs_the_writers_their_budget_and_no_more(
    scene: Broken, leg: str, failpoint: str
) -> None:
    with swallowed(scene, leg, failpoint) as child:
        # By the source's own clock, long before anybody has noticed the silence.
        assert scene.clerk.writes_on()
        assert "answered nothing" not in scene.told()
        said, _ = child.communicate(timeout=RUN_SECONDS)
    assert child.returncode == 1, said
    scene.assert_clear(said)
    assert "rolled back" in said
    assert "writers go on" in said
    assert not scene.clerk.fenced.is_set()
    scene.heal()
    scene.finishes()
    scene.assert_moved()


@soak
@pytest.mark.parametrize("scene", [{"over": "{write_pause_budget: 10s}"}], indirect=True)
def test_a_commit_of_the_fence_that_is_swallowed_is_not_known_until_the_source_can_be_asked(
    scene: Broken,
) -> None:
    with swallowed(scene, "source", "cutover.before_commit") as child:
        # The source has ended the fence by itself, as it would have if the COMMIT had never been sent.
        assert scene.clerk.writes_on()
        said, _ = child.communicate(timeout=RUN_SECONDS)
    assert child.returncode == 1, said
    scene.assert_clear(said)
    assert "whether it took effect is not known yet" in said
    assert not scene.clerk.fenced.is_set()
    scene.heal()
    scene.finishes()
    scene.assert_moved()


@soak
@pytest.mark.parametrize("scene", [{"over": "{write_pause_budget: 10s}"}], indirect=True)
def test_a_target_that_is_swallowed_behind_the_fences_commit_is_opened_by_the_next_run(
    scene: Broken,
) -> None:
    with swallowed(scene, "target", "cutover.before_commit") as child:
        said, _ = child.communicate(timeout=RUN_SECONDS)
    assert child.returncode == 1, said
    scene.assert_clear(said)
    # The source is closed, and nobody writes anywhere until the target is opened.
    assert scene.clerk.fenced.is_set()
    assert "nobody can write" in said
    scene.heal()
    scene.finishes()
    scene.assert_moved()


def silence_is_noticed(scene: Broken, child: subprocess.Popen[str]) -> None:
    """The stream's line is found silent in time, and the run, or the next one, goes on once it is not any more."""
    noticed(scene, "the line from the target to the source is silent")
    scene.heal()
    said, _ = child.communicate(timeout=RUN_SECONDS)
    scene.assert_clear(said)
    if child.returncode != 0:
        scene.finishes()


def test_a_black_hole_between_target_and_source_is_noticed_while_following(scene: Broken) -> None:
    # The stream has begun, and what it sends from here on is swallowed.
    scene.lines["stream"].trap("copydata", "hole", nth=4)
    with started(scene) as child:
        while not scene.lines["stream"].counts().sprung:
            assert child.poll() is None, scene.told()
            CLOCK.sleep(0.1)
        silence_is_noticed(scene, child)
    scene.assert_moved()


@pytest.mark.parametrize("scene", [{"copy": "{jobs: 1}"}], indirect=True)
def test_a_black_hole_between_target_and_source_is_noticed_while_streams_are_joined(scene: Broken) -> None:
    # What a lost snapshot divided is joined: each stream is to come to its marker, and one that is swallowed does not.
    execute(
        scene.one.ours,
        "CREATE TABLE big AS SELECT i, repeat(md5(i::text), 8) v FROM generate_series(1, 20000) i",
    )
    execute(scene.one.ours, "ALTER TABLE big ADD PRIMARY KEY (i)")
    with frozen(scene.one, "copy.after_commit#1", "run", "--yes", "--no-input") as child:
        child.kill()
        child.wait()
    with swallowed(scene, "stream", "merge.stoppable") as child:
        silence_is_noticed(scene, child)
    scene.assert_moved()


@soak
@pytest.mark.parametrize("mode", ["kill", "raise"])
def test_a_runner_that_breaks_off_as_it_ends_a_silent_stream_goes_on(scene: Broken, mode: str) -> None:
    scene.lines["stream"].trap("copydata", "hole", nth=4)
    code, said = scene.one.run("run", "--yes", "--no-input", failpoints=f"stream.before_end:{mode}")
    assert code == (-signal.SIGKILL if mode == "kill" else 1), said
    scene.heal()
    scene.finishes()
    scene.assert_moved()


@soak
def test_a_target_that_gets_no_answer_from_the_source_is_a_clear_error(scene: Broken) -> None:
    scene.lines["stream"].trap("statement", "hole", match="START_REPLICATION")
    code, said = scene.run()
    assert code == 1, said
    scene.assert_clear(said)
    assert "without a session on the source" in said
    scene.heal()
    scene.finishes()
    scene.assert_moved()


@soak
def test_a_narrow_and_long_line_is_slow_and_nothing_worse(scene: Broken) -> None:
    with psycopg.connect(scene.one.ours, autocommit=True) as session:
        # One row of 800 kB: seven seconds on the way, in which nothing else is said on that session.
        session.execute(
            "INSERT INTO ledger SELECT 0, 0, string_agg(md5(i::text), '') FROM generate_series(1, 25000) i"
        )
    for line in scene.lines.values():
        line.set(bytes_per_second=125_000, delay=0.01)
    code, said = scene.run()
    assert code == 0, said
    assert "attempt" not in scene.told()
    assert "answered nothing" not in scene.told()
    scene.assert_moved()


@soak
@pytest.mark.parametrize("leg", LEGS)
def test_a_line_that_is_long_both_ways_is_slow_and_nothing_worse(scene: Broken, leg: str) -> None:
    scene.lines[leg].set(delay=0.1)
    with started(scene) as child:
        said, _ = child.communicate(timeout=600)
    assert child.returncode == 0, said
    scene.assert_moved()


@soak
def test_a_line_that_stalls_every_two_seconds_is_waited_for(scene: Broken) -> None:
    for line in scene.lines.values():
        line.set(flap=2, off="hold")
    through(scene)
    assert "answered nothing" not in scene.told()


def finished(scene: Broken) -> set[tuple[str, ...]]:
    """What the ledger has on record as finished, by the test's own SQL."""
    with psycopg.connect(scene.one.theirs) as session:
        if session.execute("SELECT to_regclass('planrunner.unit') IS NULL").fetchone() == (True,):
            return set()
        found = session.execute(
            "SELECT 'unit', unit_id FROM planrunner.unit UNION ALL SELECT step, name FROM planrunner.effect"
            " WHERE step IN ('schema', 'sync')"
        ).fetchall()
    return {tuple(row) for row in found}


@soak
@pytest.mark.parametrize("legs", [("source", "target"), pytest.param(("stream",), marks=soak)])
def test_a_line_that_is_cut_every_two_seconds_is_got_over_in_parts(
    scene: Broken, legs: tuple[str, ...]
) -> None:
    for leg in legs:
        scene.lines[leg].set(flap=2, off="refuse")
    done: set[tuple[str, ...]] = set()
    for _ in range(8):
        code, said = scene.run()
        if code == 0:
            break
        scene.assert_clear(said)
        now = finished(scene)
        # What a run has finished no later one does again.
        assert done <= now
        done = now
    scene.heal()
    scene.finishes()
    scene.assert_moved()
