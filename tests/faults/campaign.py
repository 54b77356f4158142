"""A whole migration under load, broken at random: one seed draws every chance, and the referee has the last word."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from planrunner.clock import SystemClock
from tests.faults.autopsy import autopsy
from tests.faults.forwarder import Forwarder
from tests.faults.injecting import BALLAST, ON_SERVERS, Side, on_server, sides
from tests.faults.referee.judge import Verdict
from tests.faults.referee.tables import digests, prepare
from tests.faults.runner import PATIENCE_SECONDS, Runner
from tests.faults.scene import Migration, migration
from tests.faults.script import Fault, Script
from tests.faults.writing import Writing, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planrunner.sandbox.servers import PostgresServer

CLOCK = SystemClock()
ROOT = Path(__file__).parents[2]
ATTEMPTS = 12
# Done, failed and resumable, locked by the one that is frozen, interrupted, killed.
MAY_END_WITH = frozenset({0, 1, 5, 130, -signal.SIGKILL, -signal.SIGTERM})
STATE_UNFIT = 6
FROZEN = "the frozen one"
_PIECES = 24
_SECONDS_A_FAULT = 10
# A slow WAL writer makes what is committed and not flushed, and may be lost in a crash, as much as it can be.
SETTINGS = {"wal_retrieve_retry_interval": "200ms", "max_connections": "80", "wal_writer_delay": "10s"}


@dataclass(kw_only=True)
class Outcome:
    """What a campaign did and what the referee says of it."""

    seed: int
    faults: list[str] = field(default_factory=list)
    attempts: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    verdict: Verdict = field(default_factory=Verdict)

    def figures(self) -> dict[str, float]:
        """As ``tests.figures`` counts them."""
        judged = self.verdict
        found = {"lost": judged.lost, "duplicated": judged.duplicated, "changed": judged.changed}
        return {
            "faults": len(self.faults),
            "seed": self.seed,
            "acknowledged": judged.acknowledged,
            "rate": self.rate,
            **{name: len(sentences) for name, sentences in found.items()},
        }

    def __str__(self) -> str:
        did = f"seed {self.seed}: {len(self.faults)} faults, {self.attempts} runs, {self.seconds:.0f} s"
        return f"{did}, {self.rate:.0f} tx/s; {self.verdict}"


class CampaignFailed(AssertionError):
    """What went wrong, with everything that was broken before."""

    def __init__(self, message: str, outcome: Outcome) -> None:
        super().__init__(message)
        self.outcome = outcome


def campaign(
    seed: int,
    pair: tuple[PostgresServer, PostgresServer],
    folder: Path,
    faults: int,
    tell: Callable[[str], None] = lambda _line: None,
    *,
    patience: float = 300.0,
) -> Outcome:
    """One migration from beginning to end with that many faults; CampaignFailed where anything is not as promised.

    ``tell`` is given a line for each fault and each runner that ended. ``patience`` is how many seconds it may take,
    and some more for each fault: what takes much longer is stuck, and should say where.
    """
    script, outcome = Script.drawn(seed, faults), Outcome(seed=seed)
    began = CLOCK.monotonic()
    with ExitStack() as stack:
        lines = (stack.enter_context(Forwarder(pair[0].port)), stack.enter_context(Forwarder(pair[1].port)))
        ports = (lines[0].port, lines[1].port)
        one = stack.enter_context(
            migration(pair, folder, f"campaign_{seed}", _SCHEMA, ports=ports, **script.options())
        )
        prepare(one.ours)
        through = [_through(dsn, line.port) for dsn, line in zip((one.ours, one.theirs), lines, strict=True)]
        client = stack.enter_context(writing(folder / "ledger", through[0], through[1], seed=seed))
        run = Campaign(
            one=one,
            script=script,
            sides=sides(one, lines),
            client=client,
            outcome=outcome,
            tell=tell,
            longest=patience + _SECONDS_A_FAULT * faults,
        )
        try:
            run.whole()
        except Exception as error:
            log = "\n".join(outcome.faults)
            said = "\n".join(run.said[-6:])
            told = f"{script}\n{log}\n{said}\n{autopsy(one)}\n{error}\nseed {seed}"
            raise CampaignFailed(told, outcome) from error
        finally:
            run.end_all()
            outcome.seconds = CLOCK.monotonic() - began
    return outcome


def _through(dsn: str, port: int) -> str:
    return re.sub(r"port=\d+", f"port={port}", dsn)


@dataclass(kw_only=True)
class Campaign:
    """One migration that is being broken."""

    one: Migration
    script: Script
    sides: tuple[Side, Side]
    client: Writing
    outcome: Outcome
    tell: Callable[[str], None]
    longest: float
    said: list[str] = field(default_factory=list)
    began: float = field(default_factory=CLOCK.monotonic)
    rebuild: bool = False
    _next: int = 0
    _arms: list[Fault] = field(default_factory=list)
    _runners: list[Runner] = field(default_factory=list)
    _frozen: list[Runner] = field(default_factory=list)

    def whole(self) -> None:
        """Copy and follow under two thirds of the faults, cut over and go back under the rest, then look."""
        self.folder = self.one.folder
        self.client.until(100)
        many = self.script.wanted
        turns = 1 + 2 * self.script.rollbacks
        self.succeeds("run", "--until", "follow", upto=max(many * 3 // 5, many - 2 * turns))
        for turn in range(turns):
            left = max(0, many - self.hit)
            verb = "rollback" if turn % 2 else "run"
            self.succeeds(verb, upto=self.hit + left // (turns - turn))
            self.client.until(100)
        self.judged()

    def succeeds(self, verb: str, *options: str, upto: int) -> None:
        """The command again and again until it is done and enough is broken."""
        quiet = 0
        while True:
            before = self.hit
            code = self.attempt(verb, *options, upto=upto)
            # A cutover is made once; following goes on, and may be broken as long as one likes.
            if code == 0 and (not options or not self._wants(upto)):
                return
            if code == 0:
                self._while_it_follows()
            # Whoever always fails before the next fault is due would fail for ever.
            quiet = 0 if code == 0 or self.hit > before else quiet + 1
            assert quiet < ATTEMPTS, (
                f"{verb} failed {ATTEMPTS} times in a row, and nothing was broken meanwhile"
            )

    @property
    def hit(self) -> int:
        """How much was broken so far."""
        return len(self.outcome.faults)

    def _wants(self, upto: int) -> bool:
        """Whether more is to be broken, and the script has more."""
        return self.hit < upto and self._next < len(self.script.faults)

    def attempt(self, verb: str, *options: str, upto: int) -> int:
        """One runner, under faults while it lives."""
        passed = CLOCK.monotonic() - self.began
        assert passed < self.longest, f"not through after {passed:.0f} s and {self.outcome.attempts} runs"
        armed = self._armed(upto)
        runner = self._start(verb, *options, armed=armed)
        give_up = CLOCK.monotonic() + PATIENCE_SECONDS
        due: float | None = None
        while runner.child.poll() is None:
            assert CLOCK.monotonic() < give_up, f"{verb} did not end: {runner.ended()}"
            if runner.stopped():
                self._note(armed, f"stopped itself at passage {armed and armed.passage}")
                armed = None
                runner = self._taken_over(runner, verb, *options)
            elif self._wants(upto) and runner.spoke:
                # Counted from its first word: what breaks a program that is still being loaded tells little.
                due = due or CLOCK.monotonic() + self._wait(upto)
                if CLOCK.monotonic() >= due:
                    runner, due = self._broken(runner, verb, options), None
            CLOCK.sleep(0.02)
        code, text = runner.ended()
        self._ended(verb, code, text)
        if self.rebuild:
            self.rebuild = False
            self._ended("state rebuild", *self._start("state rebuild", armed=None).ended())
        if armed is not None and not runner.hit and (code == -signal.SIGKILL or "failpoint " in text):
            self._note(armed, f"passage {armed.passage} of the runner")
        self._wake()
        return code

    # What breaks.

    def _while_it_follows(self) -> None:
        """The script's next fault while no runner is at work, where it is one of the servers or the lines."""
        fault = self.script.faults[self._next]
        self._next += 1
        if fault.kind in ON_SERVERS:
            hit = on_server(fault.kind, random.Random(fault.seed), self.sides[fault.side])
            if hit:
                self._note(fault, hit)

    def _armed(self, upto: int) -> Fault | None:
        """A fault that a runner is started with."""
        return self._arms.pop(0) if self._arms and self._wants(upto) else None

    def _wait(self, upto: int) -> float:
        return self.script.faults[self._next].after if self._wants(upto) else 0.0

    def _broken(self, runner: Runner, verb: str, options: Sequence[str]) -> Runner:
        """The script's next fault, and who is at work after it."""
        fault = self.script.faults[self._next]
        self._next += 1
        if fault.kind.startswith("failpoint"):
            self._arms.append(fault)
            return runner
        if fault.kind in ON_SERVERS:
            hit = on_server(fault.kind, random.Random(fault.seed), self.sides[fault.side])
            if hit:
                self._note(fault, hit)
            return runner
        self._note(fault, f"{verb}, process {runner.child.pid}")
        runner.hit = True
        match fault.kind:
            case "SIGKILL":
                runner.child.kill()
            case "SIGTERM":
                runner.child.terminate()
            case _:
                runner.child.send_signal(signal.SIGSTOP)
                return self._taken_over(runner, verb, *options)
        return runner

    def _note(self, fault: Fault | None, what: str) -> None:
        if fault is not None:
            at = CLOCK.monotonic() - self.began
            self.outcome.faults.append(f"{at:6.1f} s  {fault.kind}: {what}")
            self.tell(self.outcome.faults[-1])

    # Runners.

    def _start(self, verb: str, *options: str, armed: Fault | None) -> Runner:
        how = f"*#{armed.passage}:{armed.kind.rpartition(' ')[2]}" if armed else ""
        self.outcome.attempts += 1
        self.tell(f"{CLOCK.monotonic() - self.began:6.1f} s  {verb} {' '.join(options)} begins {how}")
        sure = ("--yes", "--no-input")
        runner = Runner(self.one.start(verb, *sure, *options, failpoints=how, folder=self.folder))
        self._runners.append(runner)
        return runner

    def _taken_over(self, frozen: Runner, verb: str, *options: str) -> Runner:
        """Another runner with a copy of the plan and its state, as on another machine."""
        self._frozen.append(frozen)
        if verb != "run":
            # Nobody takes over from a rollback: whoever comes is told that one is at work.
            return self._start(verb, *options, armed=None)
        elsewhere = self.one.folder.with_name(
            f"{self.one.folder.name}-{len(self.said)}-{self.outcome.attempts}"
        )
        shutil.copytree(self.folder, elsewhere, ignore=shutil.ignore_patterns("*.lock", "*.tmp", "ledger"))
        self.folder = elsewhere
        return self._start(verb, *options, "--take-over", armed=None)

    def _wake(self) -> None:
        """Those that were frozen go on, and may do no more harm than to end."""
        for runner in self._frozen:
            runner.child.send_signal(signal.SIGCONT)
        for runner in self._frozen:
            give_up = CLOCK.monotonic() + PATIENCE_SECONDS
            while runner.child.poll() is None and CLOCK.monotonic() < give_up:
                if runner.stopped():
                    # It was frozen before it came to the point where it was to stop itself.
                    runner.child.send_signal(signal.SIGCONT)
                CLOCK.sleep(0.02)
            code, text = runner.ended()
            self._ended(FROZEN, code, text)
        self._frozen.clear()

    def _ended(self, verb: str, code: int, text: str) -> None:
        at = CLOCK.monotonic() - self.began
        self.said.append(f"--- {at:.1f} s: {verb} ended with {code}\n{text[-3000:]}")
        self.tell(f"{at:6.1f} s  {verb} ended with {code}: {text.strip()[-300:] if code else ''}")
        if code == STATE_UNFIT and "state rebuild" in text:
            if verb == FROZEN:
                return
            # Who took over died before its first save, and the plan's folder here never saw the others'.
            self.rebuild = True
            return
        assert code in MAY_END_WITH, f"{verb} ended with {code}: {text[-3000:]}"
        assert "Traceback" not in text, text

    def end_all(self) -> None:
        """No process outlives a campaign that failed."""
        for runner in self._runners:
            if runner.child.poll() is None:
                runner.child.send_signal(signal.SIGCONT)
                runner.child.kill()
                runner.child.wait()

    # The last word.

    def judged(self) -> None:
        """Nothing lost, nothing left, both sides equal; ``cleanup`` ends what follows."""
        self.outcome.rate = self.client.stop()["rate"]
        self.outcome.verdict = self._verdict()
        assert self.outcome.verdict.clean, self.outcome.verdict
        statuses = {step["status"] for step in self._state()["steps"].values()}
        assert statuses == {"done"}, statuses
        if not self.script.reverse:
            self._assert_nothing_left()
        self._assert_equal()
        assert self.attempt("cleanup", upto=0) == 0, self.said[-1]
        self._assert_nothing_left()

    def _assert_nothing_left(self) -> None:
        left = self.one.left()
        assert left == [], f"left: {left}"

    def _assert_equal(self) -> None:
        give_up = CLOCK.monotonic() + PATIENCE_SECONDS
        while differ := self._differ():
            # What follows the target may have a moment for the last writes.
            assert self.script.reverse, f"differ: {differ}"
            assert CLOCK.monotonic() < give_up, f"still differ: {differ}"
            CLOCK.sleep(0.2)

    def _differ(self) -> list[str]:
        """Tables whose digests differ; without a way back only those to which nobody wrote since the cutover."""
        here, there = digests(self.one.ours), digests(self.one.theirs)
        compared = [t for t in {**here, **there} if self.script.reverse or t.startswith("public.")]
        return [t for t in compared if here.get(t) != there.get(t)]

    def _state(self) -> dict[str, dict[str, dict[str, str]]]:
        return json.loads((self.folder / "plan.yaml.state.json").read_text())  # type: ignore[no-any-return]

    def _verdict(self) -> Verdict:
        ended = subprocess.run(
            [sys.executable, "-m", "tests.faults.referee", "judge", str(self.client.ledger)],
            cwd=ROOT,
            env={**os.environ, "REFEREE_SOURCE": self.one.ours, "REFEREE_TARGET": self.one.theirs},
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return Verdict(**json.loads(ended.stdout))


# Some seconds of copying in units of every kind: ranges, chunks, whole tables, many small ones, one without a key.
_SCHEMA = "\n".join(
    [
        *(
            f"CREATE TABLE {name} (id int PRIMARY KEY, note text NOT NULL, at timestamptz NOT NULL DEFAULT now());"
            f" INSERT INTO {name} (id, note) SELECT i, repeat(md5(i::text), 8) FROM generate_series(1, 8000) i;"
            for name in BALLAST
        ),
        *(
            f"CREATE TABLE piece_{n} (id int PRIMARY KEY, what text); INSERT INTO piece_{n} SELECT i, 'p' || i"
            " FROM generate_series(1, 50) i;"
            for n in range(_PIECES)
        ),
        "ALTER TABLE ballast_0 ADD UNIQUE (note, id);",
    ]
)
