"""What every home of a state has to do, run against each of them: a file, S3 (moto), and PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest

from planrunner.clock import SystemClock
from planrunner.errors import LockedByAnother, StateUnfit
from planrunner.model import Endpoint, Secret, Side
from planrunner.postgres.cabinet import AdvisoryLock, Table
from planrunner.postgres.connection import Server
from planrunner.sandbox.binaries import wheel_bin
from planrunner.sandbox.servers import PostgresServer
from planrunner.state.codec import to_json
from planrunner.state.control import Control
from planrunner.state.file import FileStore
from planrunner.state.lease import Lease
from planrunner.state.record import State
from planrunner.state.remote import RemoteHome
from planrunner.steering import Steer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.ports import StateHome

CLOCK = SystemClock()
FIRST = State(lineage="l", plan="orders", plan_digest="d", serial=1, facts={"größe": "12"})
EXPIRY = 2.0


class Place(Protocol):
    """A place of one kind: homes of it share it, as processes do."""

    def home(self, *, take_over: bool = False) -> StateHome: ...
    def write(self, text: str) -> None: ...
    def lose(self) -> None: ...


class Files:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "orders.yaml.state.json"

    def home(self, *, take_over: bool = False) -> StateHome:  # noqa: ARG002  # its lock is freed with its process
        return FileStore(self.path)

    def write(self, text: str) -> None:
        self.path.write_text(text)

    def lose(self) -> None:
        self.path.unlink()


class Buckets:
    def __init__(self, name: str) -> None:
        import boto3

        self.name = name
        self.client = boto3.client("s3")
        self.client.create_bucket(Bucket=name)

    def home(self, *, take_over: bool = False) -> StateHome:
        from planrunner.aws.bucket import Bucket

        cabinet = Bucket(self.name)
        lock = Lease(cabinet, "k/orders.lock", heartbeat=0.3, expiry=EXPIRY, take_over=take_over)
        return RemoteHome(cabinet, "k/orders", lock, place=f"s3://{self.name}/k/orders")

    def write(self, text: str) -> None:
        self.client.put_object(Bucket=self.name, Key="k/orders", Body=text.encode())

    def lose(self) -> None:
        self.client.delete_object(Bucket=self.name, Key="k/orders")


class Tables:
    def __init__(self, dsn: str, password: str) -> None:
        endpoint = Endpoint(side=Side.LOCAL, dsn=dsn)
        self.server = Server(
            endpoint, clock=CLOCK, resolve=lambda _: Secret(password), label="planrunner-state/orders"
        )

    def home(self, *, take_over: bool = False) -> StateHome:
        table = Table(self.server)
        lock = AdvisoryLock(self.server, table, "orders.lock", take_over=take_over)
        return RemoteHome(table, "orders", lock, place="target")

    def write(self, text: str) -> None:
        with self.server.transaction() as session:
            session.execute("UPDATE planrunner.state SET body = %s WHERE name = 'orders'", [text])

    def lose(self) -> None:
        self.server.execute("DELETE FROM planrunner.state WHERE name = 'orders'")


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    with PostgresServer(wheel_bin(16), max_life=300) as running:
        yield running


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(params=["file", "s3", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "file":
        return Files(tmp_path)
    if request.param == "postgres":
        running: PostgresServer = request.getfixturevalue("server")
        made = Tables(running.dsn("postgres", "postgres"), running.password)
        made.server.execute("DROP SCHEMA IF EXISTS planrunner CASCADE")
        return made
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    given = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    none = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    for name, value in {**given, **none, "AWS_ENDPOINT_URL_S3": request.getfixturevalue("_moto")}.items():
        monkeypatch.setenv(name, value)
    return Buckets(f"b{os.getpid()}-{tmp_path.name[-40:].replace('_', '-').strip('-').lower()}")


def serials(home: StateHome, last: int, first: int = 1) -> None:
    for serial in range(first, last + 1):
        home.save(replace(FIRST, serial=serial))


def test_a_home_is_empty_before_the_first_save(place: Place) -> None:
    home = place.home()
    assert home.load() is None
    assert home.history() == ()
    assert home.holder() is None
    assert home.control() == Control()


def test_what_was_saved_is_loaded_by_another_process(place: Place) -> None:
    place.home().save(FIRST)
    assert place.home().load() == FIRST


def test_the_five_previous_states_are_kept_newest_first(place: Place) -> None:
    home = place.home()
    serials(home, 8)
    again = place.home()
    assert again.load() == replace(FIRST, serial=8)
    assert [state.serial for state in again.history()] == [7, 6, 5, 4, 3]
    again.save(replace(FIRST, serial=9))
    assert [state.serial for state in place.home().history()] == [8, 7, 6, 5, 4]


def test_an_older_copy_that_was_put_back_is_refused(place: Place) -> None:
    home = place.home()
    serials(home, 4)
    place.write(to_json(replace(FIRST, serial=2)))
    with pytest.raises(StateUnfit, match="older copy: it holds serial 2, its newest backup 3"):
        place.home().load()


def test_a_digit_that_was_changed_is_noticed(place: Place) -> None:
    place.home().save(FIRST)
    place.write(to_json(FIRST).replace('"serial": 1,', '"serial": 2,'))
    with pytest.raises(StateUnfit, match="checksum"):
        place.home().load()


def test_what_is_set_aside_is_kept_and_written_over_by_nobody(place: Place) -> None:
    assert place.home().set_aside() is None
    place.home().save(FIRST)
    for number in (1, 2):
        place.write(f"damage {number}")
        home = place.home()
        with home.locked(CLOCK):
            aside = home.set_aside()
            assert aside is not None
            assert aside.endswith(f".aside.{number}")
            home.save(replace(FIRST, serial=10 + number))
        assert place.home().load() == replace(FIRST, serial=10 + number)


def test_of_two_writers_that_read_the_same_state_one_is_refused(place: Place) -> None:
    place.home().save(FIRST)
    one, other = place.home(), place.home()
    one.load()
    other.load()
    one.save(replace(FIRST, serial=2, plan_digest="one"))
    with pytest.raises(LockedByAnother) as refused:
        other.save(replace(FIRST, serial=2, plan_digest="other"))
    assert refused.value.exit_code == 5
    loaded = place.home().load()
    assert loaded is not None
    assert loaded.plan_digest == "one"


def test_of_two_writers_that_found_nothing_one_is_refused(place: Place) -> None:
    one, other = place.home(), place.home()
    assert (one.load(), other.load()) == (None, None)
    one.save(FIRST)
    with pytest.raises(LockedByAnother):
        other.save(replace(FIRST, lineage="m"))
    assert place.home().load() == FIRST


def test_an_older_serial_is_refused(place: Place) -> None:
    home = place.home()
    serials(home, 3)
    with pytest.raises(StateUnfit, match="serial"):
        home.save(replace(FIRST, serial=3))


def test_another_lineage_is_refused(place: Place) -> None:
    home = place.home()
    home.save(FIRST)
    with pytest.raises(StateUnfit, match="another migration"):
        home.save(replace(FIRST, serial=2, lineage="m"))


def test_a_damaged_state_is_refused_and_names_the_newest_good_backup(place: Place) -> None:
    serials(place.home(), 3)
    place.write('{"format')
    with pytest.raises(StateUnfit) as refused:
        place.home().load()
    assert "backup" in (refused.value.remedy or "")


def test_a_vanished_state_is_not_a_fresh_start(place: Place) -> None:
    serials(place.home(), 2)
    place.lose()
    with pytest.raises(StateUnfit, match="gone"):
        place.home().load()


def test_the_lock_keeps_others_away_and_names_its_holder(place: Place) -> None:
    with place.home().locked(CLOCK):
        other = place.home()
        found = other.holder()
        assert found is not None
        assert found.pid == os.getpid()
        with pytest.raises(LockedByAnother, match=f"process {os.getpid()}"), other.locked(CLOCK):
            pytest.fail("two hold the lock")
    assert place.home().holder() is None
    with place.home().locked(CLOCK):
        pass


def test_the_lock_is_held_for_as_long_as_the_work_takes(place: Place) -> None:
    with place.home().locked(CLOCK):
        threading.Event().wait(EXPIRY + 0.7)
        assert place.home().holder() is not None


DYING = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_state_home import CLOCK, {kind}
place = {kind}.__new__({kind})
{setting}
with place.home().locked(CLOCK):
    os.kill(os.getpid(), 9)
"""


def test_a_dead_holders_lock_frees_itself(place: Place) -> None:
    match place:
        case Files():
            setting = f"place.path = Path({str(place.path)!r})"
        case Buckets():
            setting = f"place.name = {place.name!r}"
        case Tables():
            dsn = place.server.endpoint.dsn
            setting = f"place.__init__({dsn!r}, {place.server.password().reveal()!r})"  # type: ignore[union-attr]
    script = DYING.format(tests=str(Path(__file__).parent), kind=type(place).__name__, setting=setting)
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert killed.returncode == -9
    deadline = CLOCK.monotonic() + 20
    while place.home().holder() is not None and CLOCK.monotonic() < deadline:
        CLOCK.sleep(0.1)
    with place.home().locked(CLOCK):
        pass


def test_what_operators_ask_for_is_read_by_another_process(place: Place) -> None:
    when = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    asked = Control().changed(who="ana@host", when=when, wishes={"paused": True, "jobs": 2, "max_load": 0})
    place.home().steer(asked)
    assert place.home().control() == asked
    assert asked.steer == Steer(paused=True, jobs=2, max_load=0)
    lifted = asked.changed(who="bo@host", when=when, wishes={"paused": False, "jobs": None})
    place.home().steer(lifted)
    assert place.home().control().steer == Steer(max_load=0)


def test_events_that_were_pushed_are_read_in_order_and_a_part_may_grow(place: Place) -> None:
    home = place.home()
    home.push_events(1, b"one\n")
    home.push_events(1, b"one\ntwo\n")
    home.push_events(3, b"three\n")
    found = place.home().events()
    assert found in (None, b"one\ntwo\nthree\n")
    assert (found is None) == isinstance(place, Files)


def test_a_frozen_holder_that_was_given_up_may_not_save(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(place, Buckets):
        pytest.skip("only a lease expires; the others end with their process or session")
    frozen = place.home()
    frozen.save(FIRST)
    # Its thread does not run: what a frozen machine looks like from the bucket.
    monkeypatch.setattr(frozen._lock, "_renew", lambda *_: None)  # type: ignore[attr-defined]
    with frozen.locked(CLOCK):
        CLOCK.sleep(EXPIRY + 1.2)
        other = place.home()
        with other.locked(CLOCK):
            other.load()
            other.save(replace(FIRST, serial=2))
            with pytest.raises(LockedByAnother):
                frozen.save(replace(FIRST, serial=2, plan_digest="frozen"))


def test_a_holder_whose_lock_is_taken_over_may_not_save(place: Place) -> None:
    if isinstance(place, Files):
        pytest.skip("a file's lock is freed with its process")
    frozen = place.home()
    frozen.save(FIRST)
    with frozen.locked(CLOCK):
        with place.home(take_over=True).locked(CLOCK):
            other = place.home()
            other.load()
            other.save(replace(FIRST, serial=2))
            with pytest.raises(LockedByAnother):
                frozen.save(replace(FIRST, serial=2, plan_digest="frozen"))
        # The other one is through; what it saved is not written over.
        with pytest.raises(LockedByAnother):
            frozen.save(replace(FIRST, serial=2, plan_digest="frozen"))
    found = place.home().load()
    assert found is not None
    assert (found.serial, found.plan_digest) == (2, "d")


def test_who_takes_over_does_it_once(place: Place) -> None:
    if isinstance(place, Files):
        pytest.skip("a file's lock is freed with its process")
    told = place.home(take_over=True)
    with told.locked(CLOCK), pytest.raises(LockedByAnother), place.home().locked(CLOCK):
        pass
    # Whoever comes after it is another one, which nobody told it to take over from.
    with place.home().locked(CLOCK), pytest.raises(LockedByAnother), told.locked(CLOCK):
        pass
