"""The soak of the secrets: every command well and badly, in every way that we know of, ended in the middle, too."""

from __future__ import annotations

import os
import re
import signal
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from planrunner.clock import SystemClock
from tests.faults import canary_cases as cases
from tests.faults.canary_place import PATIENCE_SECONDS, Place, furnished, watched
from tests.faults.canary_search import SEARCHES, in_files, in_notifications, in_words
from tests.faults.canary_wrong import WRONG, wrong_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# One migration for all, so one worker.
pytestmark = [pytest.mark.timeout(1500), pytest.mark.soak, pytest.mark.xdist_group("canaries everywhere")]
CLOCK = SystemClock()
VALUES = ("--var-file", "values.yaml")
BUG = """
def broken(plan, files, options, parts):
    world = parts.connect(plan, "x")
    print(open("/proc/self/limits").read())
    raise RuntimeError(f"odd: {world.source.password().reveal()} in a message")
launch.launch = broken
"""
NOTE_PID = "import os; open('pid', 'w').write(str(os.getpid()))"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with furnished(tmp_path_factory.mktemp("canaries")) as made:
        yield made


@pytest.fixture(scope="module")
def migrated(place: Place) -> Place:
    """Every command that goes well, in the order in which they can."""
    with watched(place):
        for main in cases.MAIN:
            for case in (*cases.BETWEEN.get(main.verb, ()), main):
                case.perform(place)
                place.note_made()
    return place


def assert_clean(place: Place) -> None:
    """No secret was said or written to a file, and no temporary file is left; all else is looked at once, at last."""
    place.note_made()
    assert [*in_words(place), *in_files(place), *in_notifications(place)] == []
    assert list((place.folder / "tmp").iterdir()) == []


def test_no_command_that_goes_well_tells_a_secret(migrated: Place) -> None:
    assert_clean(migrated)


def test_a_demonstration_tells_no_secret(migrated: Place) -> None:
    # Its servers run under an account that may not look into the folder of the tests.
    with tempfile.TemporaryDirectory(prefix="canaries-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        cases.DEMO.perform(migrated, TMPDIR=folder)
        # The plan, its state and the report stay, and nothing else.
        (kept,) = Path(folder).iterdir()
        for path in filter(Path.is_file, kept.rglob("*")):
            assert migrated.canaries.met(path.read_text("utf-8", "replace"), laid_out=True) == []
    assert_clean(migrated)


@pytest.mark.parametrize("wrong", WRONG)
def test_no_command_that_fails_at_a_server_or_at_aws_tells_a_secret(migrated: Place, wrong: str) -> None:
    plan, environment = wrong_plan(migrated, wrong)
    ways = (*cases.CONNECTING.items(), *cases.CONNECTING_TOO.items())
    with watched(migrated):
        for verb, words in ways:
            cases.Case(verb=verb, words=(plan, *VALUES, *words), code=None).perform(migrated, **environment)
    assert_clean(migrated)


def test_no_command_with_wrong_words_tells_a_secret(migrated: Place) -> None:
    for case in cases.WRONG_WORDS:
        case.perform(migrated)
    assert_clean(migrated)


def test_no_command_tells_a_password_that_stands_in_a_plan(migrated: Place) -> None:
    for case in cases.with_a_bad_plan():
        case.perform(migrated)
    assert_clean(migrated)


def like_it(place: Place, name: str, **step: object) -> tuple[str, ...]:
    """A plan with that step alone, as the words of a command."""
    plan = place.plan()
    plan["metadata"]["name"] = name
    plan["steps"] = [{"id": "bad", **step}]
    place.write(f"{name}.yaml", plan)
    return (f"{name}.yaml", *VALUES)


STATEMENTS = (
    "SELECT $q1${{ vars.v1 }}$q1$::int",
    "SELECT $${{ vars.v2 }}$$::int",
    "DO $$BEGIN RAISE '{{ vars.v0 }}'; END$$",
    "DO $$BEGIN RAISE EXCEPTION USING MESSAGE = 'x', DETAIL = '{{ vars.v_short }}', HINT = '{{ vars.v6 }}'; END$$",
    "{{ vars.v0 }}",
    "SELECT $a${{ vars.v20 }}$a$::int",
)


@pytest.mark.parametrize("number", range(len(STATEMENTS)))
def test_a_statement_that_fails_tells_no_secret(migrated: Place, number: int) -> None:
    words = like_it(
        migrated, f"failing{number}", uses="sql", **{"with": {"statements": [STATEMENTS[number]]}}
    )
    migrated.run(f"statement {number}", "run", *words, *cases.YES, code=None)
    for style in ("html", "markdown", "json"):
        migrated.run(f"statement {number} {style}", "report", *words, "--format", style)
    assert_clean(migrated)


def test_a_hook_that_fails_tells_no_secret(migrated: Place) -> None:
    hook = {
        "command": ["sh", "-c", "echo $KEPT; echo $KEPT >&2; exit 3"],
        "env": {"KEPT": {"secret": {"file": "kept2.txt"}}},
    }
    words = like_it(migrated, "hooked", uses="validate", before=[hook])
    migrated.run("a hook", "run", *words, *cases.YES, code=1)
    migrated.run("report of a hook", "report", *words, "--format", "html")
    migrated.run("history of a hook", "state", "history", *words)
    assert_clean(migrated)


def test_a_bug_is_told_and_kept_without_a_secret_and_without_a_core_file(migrated: Place) -> None:
    told = migrated.run("a bug", "run", *cases.PLAN, "--yes", code=3, script=BUG)
    found = re.search(r"the details are in (\S+)", told)
    assert found is not None
    kept = Path(found[1])
    assert "odd: " in kept.read_text()
    assert not migrated.canaries.met(told + kept.read_text())
    kept.unlink()
    assert re.search(r"Max core file size +0 ", told)


def marking(place: Place, name: str) -> tuple[str, ...]:
    """The plan with nothing but the step that is full of secrets, as the words of a command."""
    plan = place.plan()
    plan["metadata"]["name"] = name
    plan["steps"] = [step for step in plan["steps"] if step["id"] == "mark"]
    place.write(f"{name}.yaml", plan)
    return (f"{name}.yaml", *VALUES)


@pytest.mark.parametrize("how", ["raise", "kill"])
@pytest.mark.parametrize("point", ["sql.statement", "secret.before_command"])
def test_a_run_that_ends_at_a_point_leaves_no_secret(migrated: Place, point: str, how: str) -> None:
    words = marking(migrated, f"ended_{how}_{point.replace('.', '_')}")
    migrated.run(
        f"ended by {how} at {point}",
        *("run", *words, *cases.YES),
        code={"raise": 1, "kill": -signal.SIGKILL}[how],
        PLANRUNNER_FAILPOINTS=f"{point}:{how}",
    )
    migrated.run(f"status after {how} at {point}", "status", *words, code=0)
    assert_clean(migrated)


SLEEPING = "SELECT '{{ vars.v0 }}', pg_sleep(600)"
WAITING_HOOK = {
    "command": ["sh", "-c", "echo $KEPT; echo $GIVEN >&2; touch waits; exec sleep 600"],
    "env": {"KEPT": {"secret": {"file": "kept3.txt"}}, "GIVEN": "{{ vars.v4 }}"},
}


@pytest.mark.parametrize("signals", [(signal.SIGTERM,), (signal.SIGTERM, signal.SIGTERM), (signal.SIGINT,)])
@pytest.mark.parametrize("where", ["in a statement", "in a hook"])
def test_a_run_that_is_ended_by_a_signal_tells_no_secret(
    migrated: Place, where: str, signals: tuple[signal.Signals, ...]
) -> None:
    name = f"signal_{where.replace(' ', '_')}_{'_'.join(s.name for s in signals)}".lower()
    if where == "in a hook":
        words, arrived = like_it(migrated, name, uses="validate", before=[WAITING_HOOK]), _waits(migrated)
    else:
        step = {"uses": "sql", "with": {"side": "source", "statements": [SLEEPING]}}
        words, arrived = like_it(migrated, name, **step), _sleeps(migrated)
    sender = threading.Thread(target=_send, args=[migrated, arrived, signals])
    sender.start()
    migrated.run(name, "run", *words, *cases.YES, code=None, script=NOTE_PID)
    sender.join()
    (migrated.folder / "waits").unlink(missing_ok=True)
    migrated.run(f"status after {name}", "status", *words)
    migrated.run(f"history after {name}", "state", "history", *words)
    assert_clean(migrated)


def _waits(place: Place) -> Callable[[], bool]:
    return (place.folder / "waits").exists


def _sleeps(place: Place) -> Callable[[], bool]:
    def sleeps() -> bool:
        with place.session(place.source) as session:
            found = session.execute(
                "SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND usename = 'mover'"
            )
            return found.rowcount > 0

    return sleeps


def _send(place: Place, arrived: Callable[[], bool], signals: tuple[signal.Signals, ...]) -> None:
    give_up = CLOCK.monotonic() + PATIENCE_SECONDS
    while not arrived() and CLOCK.monotonic() < give_up:
        CLOCK.sleep(0.05)
    for each in signals:
        try:
            os.kill(int((place.folder / "pid").read_text()), each)
        except ProcessLookupError:
            return
        CLOCK.sleep(0.3)


@pytest.mark.parametrize("home", ["s3://states/canaries.json", "target"])
def test_a_state_that_is_kept_elsewhere_holds_no_secret(migrated: Place, home: str) -> None:
    given = {"endpoint_url": migrated.environ["AWS_ENDPOINT_URL"], "region_name": "us-east-1"}
    bucket = boto3.client("s3", **given, aws_access_key_id="test", aws_secret_access_key="test")
    bucket.create_bucket(Bucket="states")
    words = (*marking(migrated, f"at_{home[:2]}"), "--state", home)
    migrated.run(f"run with state at {home}", "run", *words, *cases.YES)
    reason = f"{migrated.words['v0']} and {migrated.words['v7']}"
    migrated.run(
        f"mark at {home}", "state", "mark", *words, "mark", "--as", "pending", "--because", reason, "--yes"
    )
    migrated.run(f"history at {home}", "state", "history", *words)
    kept = bucket.list_objects_v2(Bucket="states").get("Contents", [])
    assert kept or home == "target"
    for each in kept:
        body = bucket.get_object(Bucket="states", Key=each["Key"])["Body"].read()
        assert migrated.canaries.met(body.decode("utf-8", "replace"), laid_out=True) == []
    assert_clean(migrated)


@pytest.mark.parametrize("where", SEARCHES)
def test_nothing_came_out_anywhere(migrated: Place, where: str) -> None:
    assert len(migrated.canaries.known) >= 80
    assert len(migrated.said) > 150
    assert SEARCHES[where](migrated) == []
