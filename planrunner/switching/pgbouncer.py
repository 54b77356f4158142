"""A switch that is a PgBouncer: paused before the fence, led to the other side after its commit."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from planrunner.errors import PlanrunnerError, StepFailed
from planrunner.failpoints import failpoint
from planrunner.model import Side
from planrunner.postgres.preflight_section import TRAFFIC, Check
from planrunner.switching import ini
from planrunner.switching.children import execute, told
from planrunner.switching.console import Console
from planrunner.switching.guardian import Guardian, Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.model import Finding, Secret
    from planrunner.switching.console import Entry
    from planrunner.switching.hooks import Destination, Surroundings
    from planrunner.switching.terms import PgBouncerTerms

_IN_FORCE_SECONDS = 10.0
_POLL_SECONDS = 0.02
_COMMAND_SECONDS = 60.0

CONSOLE = Check(
    code="PR1302",
    section=TRAFFIC,
    title="PgBouncer's console answers",
    why="Clients are held back, and let go, by commands at its console.",
    mend="Correct admin in the plan's switch, or let its user in.",
)
RIGHTS = Check(
    code="PR1303",
    section=TRAFFIC,
    title="The login may PAUSE and RESUME",
    why="Who is in stats_users alone may look, but not hold clients back: the cutover would stop there.",
    mend="Add the user to admin_users of PgBouncer and reload it.",
)
ENTRY = Check(
    code="PR1304",
    section=TRAFFIC,
    title="PgBouncer pools the database by transaction",
    why="PAUSE waits for every client's server connection; with session pooling that is until the client goes.",
    mend="Use pool_mode transaction for the entry, and write its name as PgBouncer does.",
)
PATIENCE = Check(
    code="PR1305",
    section=TRAFFIC,
    title="PgBouncer lets clients wait for the whole pause",
    why="A client that waits longer than query_wait_timeout is turned away with an error.",
    mend="Raise query_wait_timeout above the longest pause, or set it to 0.",
)
CONFIG = Check(
    code="PR1306",
    section=TRAFFIC,
    title="PgBouncer's file can be rewritten",
    why="The entry is led to the target in this file, with the clients waiting.",
    mend="Run as the file's owner, name the file that PgBouncer reads, or use config: {command: …}.",
)


class PgBouncer:
    """Pauses one entry of a PgBouncer and gives it another host."""

    def __init__(self, terms: PgBouncerTerms, surroundings: Surroundings) -> None:
        self._terms = terms
        self._surroundings = surroundings
        self._console = Console(terms.admin, self._password)
        self._guardian: Guardian | None = None
        self._holds = False

    @property
    def title(self) -> str:
        """The entry."""
        return f"pgbouncer {self._terms.database}"

    def prepare(self, to: Side) -> None:
        """See that the file can be rewritten, and start the guardian, which takes a moment."""
        self._planned(to)
        self._end_guardian("released")
        task = Task(
            database=self._terms.database,
            pausing=self._terms.timeout,
            fenced=self._surroundings.left_behind(to),
        )
        self._guardian = Guardian(self._console, task, self._surroundings)
        failpoint("switch.guarded")

    def before_fence(self, to: Side) -> None:  # noqa: ARG002  # the same either way
        """Pause the entry once its open transactions have ended; StepFailed when they don't in time.

        From here a guardian resumes it when this process is killed or stopped.
        """
        if self._guardian is None:
            raise StepFailed(f"{self.title} was not prepared", remedy="Nothing was paused; run again.")
        self._guardian.pausing()
        self._console.pause(self._terms.database, self._terms.timeout)
        self._guardian.paused()
        self._holds = True
        failpoint("switch.paused")

    def check(self) -> None:
        """StepFailed when the entry is no longer paused, whoever resumed it."""
        if not self._holds:
            return
        entry = self._console.entry(self._terms.database)
        acted = self._guardian is None or self._guardian.acted
        if acted or entry is None or not entry.paused:
            raise StepFailed(
                f"{self.title} is not paused any more: its clients would fail at the fence",
                remedy="Somebody resumed it, or the pause took longer than the budget and its guardian did. Run again.",
            )

    def after_commit(self, to: Side) -> None:
        """Lead the entry to that side and resume it; left paused when the new address is not in force."""
        self._end_guardian("committed")
        destination = self._destination(to)
        self._rewrite(to, destination)
        failpoint("switch.rewritten")
        self._await_in_force(destination)
        failpoint("switch.reloaded")
        self._console.resume(self._terms.database)
        self._holds = False
        self._console.close()
        failpoint("switch.resumed")

    def on_rollback(self, to: Side) -> None:  # noqa: ARG002  # the same either way
        """Resume at once."""
        try:
            if self._guardian is not None:
                self._console.resume(self._terms.database)
        finally:
            # When the console refused us, the guardian goes on trying.
            self._holds = False
        self._end_guardian("released")
        self._console.close()

    def findings(self) -> Sequence[Finding]:
        """Whether console, entry, settings and file are as a switch needs them."""
        return list(self._findings())

    def described(self, to: Side) -> Sequence[str]:
        """Console commands and the change of the file."""
        terms, destination = self._terms, self._destination(to)
        name = ini.quoted_name(terms.database)
        pairs = " ".join(f"{key}={value}" for key, value in _wish(destination).items())
        change = (
            f"in [databases] of {terms.config}: {name} = … {pairs}; RELOAD"
            if terms.config is not None
            else f"PLANRUNNER_TO={to.value}: {shlex.join(terms.command)}"
        )
        return [
            f"before the fence: PAUSE {name}, for at most {terms.timeout:g} s",
            f"after the commit: {change}; RESUME {name}",
            f"if it is rolled back, or the runner dies: RESUME {name}",
        ]

    def _password(self) -> Secret | None:
        return None if self._terms.password is None else self._surroundings.resolve(self._terms.password)

    def _destination(self, to: Side) -> Destination:
        return self._surroundings.destination(to, self._terms.places.of(to))

    def _planned(self, to: Side) -> ini.Change | None:
        config = self._terms.config
        if config is None:
            return None
        return ini.rewritten(config, self._terms.database, _wish(self._destination(to)))

    def _rewrite(self, to: Side, destination: Destination) -> None:
        change = self._planned(to)
        if change is None:
            variables = {**told(to, destination), "PLANRUNNER_POOL": self._terms.database}
            execute(self._terms.command, variables, _COMMAND_SECONDS, self._surroundings)
            return
        ini.write(change)
        self._console.reload()

    def _await_in_force(self, wished: Destination) -> None:
        clock = self._surroundings.clock
        deadline = clock.monotonic() + _IN_FORCE_SECONDS
        while not _leads_to(entry := self._console.entry(self._terms.database), wished):
            if clock.monotonic() > deadline:
                found = "no entry" if entry is None else f"{entry.host}:{entry.port}/{entry.dbname}"
                raise StepFailed(
                    f"{self.title} stays paused: it leads to {found}, not to"
                    f" {wished.host}:{wished.port}/{wished.database}",
                    remedy="See its log: it may not take its file, or read another one. Then run again.",
                )
            clock.sleep(_POLL_SECONDS)

    def _end_guardian(self, word: str) -> None:
        if self._guardian is not None:
            self._guardian.end(word)
        self._guardian = None

    def _findings(self) -> Iterator[Finding]:
        try:
            entry, settings = self._console.entry(self._terms.database), self._console.settings()
        except PlanrunnerError as error:
            yield CONSOLE.failed(error.message, error.remedy)
            return
        finally:
            self._console.close()
        yield CONSOLE.passed(f"pgbouncer {self._console.place}: the console answers")
        yield self._rights(settings)
        yield self._entry_finding(entry, settings)
        yield self._waiting(settings)
        yield from self._file_findings(settings)

    def _rights(self, settings: Mapping[str, str]) -> Finding:
        user, admins = self._console.user, settings.get("admin_users", "")
        if user in [name.strip() for name in admins.split(",")]:
            return RIGHTS.passed(f"{self.title}: {user} may PAUSE and RESUME")
        return RIGHTS.warned(
            f"{self.title}: {user or 'the login'} is not among admin_users",
            "Unless it is the pooler's own user over its socket, add it: who is in stats_users alone may not PAUSE.",
        )

    def _entry_finding(self, entry: Entry | None, settings: Mapping[str, str]) -> Finding:
        if entry is None:
            return ENTRY.warned(
                f"{self.title}: no such database has been connected to yet",
                "With a fallback entry * that may be so; otherwise correct the name.",
            )
        mode = entry.pool_mode or settings.get("pool_mode", "")
        text = f"{self.title} leads to {entry.host}:{entry.port}/{entry.dbname}, pool_mode {mode}"
        if mode == "session":
            return ENTRY.warned(
                text,
                "PAUSE waits there until every client has gone; transaction pooling does not.",
            )
        return ENTRY.passed(text)

    def _waiting(self, settings: Mapping[str, str]) -> Finding:
        patience = float(settings.get("query_wait_timeout") or 0)
        longest = self._terms.timeout + self._surroundings.budget
        text = f"{self.title}: clients wait for {patience:g} s (query_wait_timeout)"
        if 0 < patience <= longest:
            remedy = f"Raise it above {longest:g} s, the longest pause, or clients are turned away."
            return PATIENCE.failed(text, remedy)
        return PATIENCE.passed(text if patience else f"{self.title}: clients wait for as long as it takes")

    def _file_findings(self, settings: Mapping[str, str]) -> Iterator[Finding]:
        config = self._terms.config
        if config is None:
            return
        try:
            # Both ways, as a rollback would go.
            changes = [change for side in (Side.TARGET, Side.SOURCE) if (change := self._planned(side))]
            why = next((why for change in changes if (why := ini.unwritable(change.file))), None)
        except StepFailed as error:
            yield CONFIG.failed(error.message, error.remedy)
            return
        if why is not None:
            yield CONFIG.failed(f"{config}: {why}", "Run as its owner, or use config: {command: …}.")
            return
        yield CONFIG.passed(f"{config} has the entry and can be rewritten")
        used = settings.get("conffile", "")
        if used.startswith("/") and used != str(config.absolute()):
            yield CONFIG.warned(f"pgbouncer says it reads {used}, the plan names {config}")


def _wish(destination: Destination) -> dict[str, str]:
    named = {"host": destination.host, "port": destination.port, "dbname": destination.database}
    return {key: value for key, value in named.items() if value}


def _leads_to(entry: Entry | None, wished: Destination) -> bool:
    found = None if entry is None else (entry.host, entry.port, entry.dbname)
    return found == (wished.host, wished.port, wished.database)
