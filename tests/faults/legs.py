"""A small migration whose three legs can be broken: runner to source, runner to target, target to source."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import psycopg

from tests.faults.lines import FaultLine
from tests.faults.runner import abort
from tests.faults.scene import CLOCK, PATIENCE_SECONDS, Migration, migration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from planrunner.sandbox.servers import PostgresServer

# A run waits for a line on purpose here; only one that hangs takes so long, on a busy machine too.
RUN_SECONDS = 400
LEGS = ("source", "target", "stream")
SCRIPT = """
CREATE TABLE ledger (id bigint PRIMARY KEY, amount numeric NOT NULL, note text);
INSERT INTO ledger SELECT i, i * 1.25, 'note ' || i FROM generate_series(1, 3000) i;
CREATE TABLE owners (id serial PRIMARY KEY, name text UNIQUE);
INSERT INTO owners (name) SELECT 'owner ' || i FROM generate_series(1, 200) i;
CREATE TABLE deeds (owner int REFERENCES owners, ledger bigint REFERENCES ledger, PRIMARY KEY (owner, ledger));
INSERT INTO deeds SELECT i, i * 10 FROM generate_series(1, 200) i;
CREATE INDEX ON ledger (amount);
CREATE TABLE acknowledged (id bigint PRIMARY KEY, at timestamptz DEFAULT clock_timestamp());
"""
_FENCED = "25006"


@dataclass
class Clerk:
    """A client of the source that writes all along, past every proxy, and remembers what it was promised."""

    dsn: str
    promised: set[int] = field(default_factory=set)
    unknown: set[int] = field(default_factory=set)
    fenced: threading.Event = field(default_factory=threading.Event)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._write)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        number = 0
        with psycopg.connect(self.dsn, autocommit=True) as session:
            while not self._ended.wait(0.01):
                number += 1
                try:
                    session.execute("INSERT INTO acknowledged (id) VALUES (%s)", [number])
                    session.execute(
                        "UPDATE ledger SET amount = amount + 1 WHERE id = %s", [1 + number % 3000]
                    )
                except psycopg.Error as error:
                    if error.sqlstate == _FENCED:
                        self.fenced.set()
                        return
                    self.unknown.add(number)
                else:
                    self.promised.add(number)

    def writes_on(self) -> bool:
        """True when it gets an acknowledgement from now on, within a while."""
        before = len(self.promised)
        give_up = CLOCK.monotonic() + PATIENCE_SECONDS
        while CLOCK.monotonic() < give_up:
            if len(self.promised) > before + 1:
                return True
            if self.fenced.is_set():
                return False
            CLOCK.sleep(0.02)
        return False


@dataclass(frozen=True, kw_only=True)
class Broken:
    """The migration, its lines and its client."""

    one: Migration
    lines: dict[str, FaultLine]
    clerk: Clerk

    def events(self) -> list[dict[str, object]]:
        path = self.one.plan.with_name(f"{self.one.plan.name}.events.jsonl")
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]

    def told(self) -> str:
        """All that was journalled."""
        return "\n".join(str(event.get("message", "")) for event in self.events())

    def run(self) -> tuple[int, str]:
        """A run on the lines as they are: its exit code and everything that was said."""
        with self.one.start("run", "--yes", "--no-input") as child:
            try:
                said, _ = child.communicate(timeout=RUN_SECONDS)
            except subprocess.TimeoutExpired:
                abort(child)
                said, _ = child.communicate()
                raise AssertionError(f"it hangs: {self.told()}\n{said}") from None
        return child.returncode, said

    def heal(self) -> None:
        for line in self.lines.values():
            line.heal()

    def assert_moved(self) -> None:
        """Equal by SQL of the test's own, every acknowledged write there, nothing left behind."""
        self.one.assert_moved()
        with psycopg.connect(self.one.theirs) as session:
            there = {row[0] for row in session.execute("SELECT id FROM acknowledged").fetchall()}
        assert self.clerk.promised <= there, sorted(self.clerk.promised - there)[:10]
        assert self.clerk.promised

    def assert_clear(self, said: str) -> None:
        """A stop is told as a user can use it: no traceback, no secret, what happened and what to do."""
        assert "Traceback" not in said, said
        for server in (self.one.source, self.one.target):
            assert server.password not in said
        assert "source" in said or "target" in said, said

    def finishes(self, attempts: int = 4) -> str:
        """Run on a good line until it is through."""
        said = ""
        for _ in range(attempts):
            code, said = self.run()
            if code == 0:
                return said
            self.assert_clear(said)
        raise AssertionError(f"not through after {attempts} runs on a good line: {said}")


@contextmanager
def broken(
    pair: tuple[PostgresServer, PostgresServer], folder: Path, name: str, script: str = SCRIPT, **options: str
) -> Iterator[Broken]:
    """Both databases, a line on each leg, and a client that writes to the source."""
    with ExitStack() as stack:
        towards = {"source": pair[0].port, "target": pair[1].port, "stream": pair[0].port}
        lines = {leg: stack.enter_context(FaultLine(port)) for leg, port in towards.items()}
        one = stack.enter_context(
            migration(
                pair,
                folder,
                name,
                script,
                ports=(lines["source"].port, lines["target"].port),
                **options,
            )
        )
        secret = "password: {secret: {env: TARGET_PASSWORD}}"
        seen = f"source_as_seen_from_target: {{host: 127.0.0.1, port: {lines['stream'].port}}}"
        one.plan.write_text(one.plan.read_text().replace(secret, f"{secret}\n    {seen}"))
        clerk = stack.enter_context(Clerk(one.ours))
        yield Broken(one=one, lines=lines, clerk=clerk)
