"""Builds indexes and constraints on the target, a table's as soon as its rows are in, while others still copy.

What is built is committed together with its ledger row, so a resume builds exactly what is missing. The entries
of small tables travel many in one message; a big table's constraints come first, then its indexes together.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Self

from planrunner.errors import Interrupted, QueryFailed, StepConflict
from planrunner.postgres import catalog
from planrunner.replication import ranges, restore, shift
from planrunner.replication.building import IN_THE_WAY, Build, Piece
from planrunner.replication.handing import Hands
from planrunner.replication.holders import Onlooker
from planrunner.replication.places import Places
from planrunner.replication.restore import FOREIGN_KEYS, POST_DATA, STEP

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.schema_dump import Entry, Wishes
    from planrunner.replication.workspace import Workspace

# Below this a table's indexes are built in no time, and what counts is the number of messages.
SMALL_BYTES = 8 << 20
_AT_ONCE = 100
# Threads wait for a place; how many places there are may change in mid-run.
_MOST_BUILDERS = 32
_ATTEMPTS = 30
_OWN = frozenset({"INDEX", "CONSTRAINT"})
_FOREIGN_KEY = "FK CONSTRAINT"
_WORD = r'("(?:[^"]|"")*"|[^\s."(;]+)'
_INDEX_OF = re.compile(rf"CREATE (?:UNIQUE )?INDEX {_WORD} ON (?:ONLY )?{_WORD}\.{_WORD}")
_CONSTRAINT_OF = re.compile(rf"ALTER TABLE (?:ONLY )?{_WORD}\.{_WORD}")
_NAMED = re.compile(rf"ALTER TABLE (?:ONLY )?{_WORD}\.{_WORD}\s+ADD CONSTRAINT {_WORD} ")
_PRIMARY = re.compile(rf"\s*ALTER TABLE (?:ONLY )?{_WORD}\.{_WORD}\s+ADD CONSTRAINT {_WORD} PRIMARY KEY ")
_UNCHECKED = re.compile(r" NOT VALID;\s*\Z")
_ENDING = re.compile(r";\s*\Z")
# Two builders that want each other's locks: the server ends one of them, which then has free way.
_DEADLOCK_ATTEMPTS = 5


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How indexes are built: ``jobs`` at a time, with ``memory`` as maintenance_work_mem each."""

    jobs: int
    memory: str
    wishes: Wishes


class Builder:
    """Takes tables whose rows are in and builds what belongs to them, on threads of its own.

    Unique indexes of a table whose ranges were copied under several generations, and all foreign keys where
    there were several, are left for ``withheld``: their rows fit together only once every stream has caught up.

    As a context manager it waits at the end for what was begun; an error of a builder is raised there or by
    the next call, and nothing new is begun after it.
    """

    def __init__(self, workspace: Workspace, terms: Terms, check: Callable[[], None]) -> None:
        self._workspace = workspace
        self._terms = terms
        self._check = check
        self._script = restore.schema(workspace, terms.wishes).post_data
        finished = workspace.ledger.effects(STEP)
        self._own: dict[str, list[Entry]] = defaultdict(list)
        for entry in self._script.entries:
            if entry.type in _OWN and entry.key not in finished:
                self._own[table_of(entry)].append(entry)
        self._pool = ThreadPoolExecutor(max(terms.jobs, _MOST_BUILDERS), thread_name_prefix="index")
        self._places = Places(self._limit, self._refuse_stopped)
        self._begun: set[Future[None]] = set()
        self._failed: Future[None] | None = None
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._onlooker = Onlooker(workspace, workspace.target)
        self._open = ExitStack()
        self._hands: Hands | None = None

    def __enter__(self) -> Self:
        site = self._open.enter_context(shift.at_work(self._workspace, shift.Kind.BUILD))
        self._hands = Hands(self._workspace, site, self._while_building)
        self._open.enter_context(self._hands.ready())
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                # What is begun may begin more, so the pool is only closed when nothing is left.
                self.wait()
        finally:
            self._stopped.set()
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._open.close()

    def wait(self) -> None:
        """Wait for everything begun so far; the first error is raised."""
        while True:
            with self._lock:
                waiting = next(iter(self._begun), None)
            self.refuse_failed()
            if waiting is None:
                return
            waiting.exception()

    def refuse_failed(self) -> None:
        """Raise what a builder has failed with, if one has; cheap to call often."""
        if self._failed is not None:
            self._stopped.set()
            self._failed.result()

    def ready(self, tables: Sequence[Table]) -> None:
        """Begin what belongs to ``tables``, whose rows are all in."""
        if len(tables) > 1 or tables[0].data_bytes < SMALL_BYTES:
            entries = [entry for table in tables for entry in self._take(table.qualified)]
            self._submit(lambda: self._together(entries, tables))
        else:
            self._submit(lambda: self._big(tables[0]))

    def everything_else(self, *, foreign_keys: bool) -> None:
        """Wait, then build what no table of the copy has brought: other tables' indexes, then the rest in order."""
        self.wait()
        left = [entry for name in list(self._own) for entry in self._take(name)]
        finished = self._workspace.ledger.effects(STEP)
        rest = [e for e in self._script.entries if e.type not in _OWN and e.key not in finished]
        for entries in (left, [e for e in rest if e.type != _FOREIGN_KEY]):
            for place in range(0, len(entries), _AT_ONCE):
                self._together(entries[place : place + _AT_ONCE], ())
        if foreign_keys:
            self._foreign_keys([e for e in rest if e.type == _FOREIGN_KEY], finished)
        self._workspace.done(STEP, POST_DATA)
        if foreign_keys:
            self._workspace.done(STEP, FOREIGN_KEYS)

    def withheld(self) -> None:
        """Build what other terms withheld; tried again while the streams are in between."""
        for attempt in range(_ATTEMPTS):
            finished = self._workspace.ledger.effects(STEP)
            left = [
                e for e in self._script.entries if e.key not in finished and e.type in {*_OWN, _FOREIGN_KEY}
            ]
            try:
                for entry in (e for e in left if e.type != _FOREIGN_KEY):
                    self._together([entry], ())
                self._foreign_keys([e for e in left if e.type == _FOREIGN_KEY], finished)
            except QueryFailed as error:
                if error.sqlstate not in {"23503", "23505"} or attempt == _ATTEMPTS - 1:
                    raise
                self._workspace.clock.sleep(1)
            else:
                break
        self._workspace.done(STEP, FOREIGN_KEYS)

    def _take(self, name: str) -> list[Entry]:
        with self._lock:
            entries = self._own.pop(name, [])
        if not any(map(unique, entries)) or len(ranges.generations_of(self._workspace, name)) < 2:
            return entries
        return [entry for entry in entries if not unique(entry)]

    def _submit(self, work: Callable[[], None]) -> None:
        self._refuse_stopped()
        future = self._pool.submit(work)
        with self._lock:
            self._begun.add(future)
        future.add_done_callback(self._ended)

    def _ended(self, future: Future[None]) -> None:
        with self._lock:
            if self._failed is None and not future.cancelled() and future.exception() is not None:
                self._failed = future
            self._begun.discard(future)

    def _limit(self) -> int:
        steer = self._workspace.steering()
        return 0 if steer.paused else steer.index_jobs or self._terms.jobs

    def _refuse_stopped(self) -> None:
        if self._stopped.is_set():
            raise Interrupted("the building of indexes was stopped; the entries in hand are rolled back")
        self._check()

    def _while_building(self) -> None:
        self._onlooker.look()
        self._refuse_stopped()

    def _big(self, table: Table) -> None:
        entries = self._take(table.qualified)
        for entry in (e for e in entries if e.type == "CONSTRAINT"):
            self._together([entry], ())
        indexes = [e for e in entries if e.type != "CONSTRAINT"]
        countdown = [len(indexes)]
        for entry in indexes:
            self._submit(lambda entry=entry: self._index(entry, table, countdown))  # type: ignore[misc]
        if not indexes:
            self._together([], [table])

    def _index(self, entry: Entry, table: Table, countdown: list[int]) -> None:
        self._together([entry], ())
        with self._lock:
            countdown[0] -= 1
            last = countdown[0] == 0
        if last:
            self._together([], [table])

    def _together(self, entries: Sequence[Entry], analyzing: Sequence[Table]) -> None:
        """Execute ``entries`` and gather statistics in one transaction with their ledger rows."""
        if not entries and not analyzing:
            return
        self._transaction([Piece(sql=e.sql, key=e.key, type=e.type) for e in entries], analyzing)
        self._workspace.analyzed.update(table.qualified for table in analyzing)
        if entries:
            kinds = ", ".join(sorted({entry.type.lower() for entry in entries}))
            self._workspace.tell(
                f"built {len(entries)} ({kinds}): {entries[0].name}{', …' if len(entries) > 1 else ''}",
                {"entries": [entry.name for entry in entries]},
            )

    def _transaction(self, pieces: Sequence[Piece], analyzing: Sequence[Table]) -> None:
        assert self._hands is not None
        wanted = Build(
            preamble=self._script.preamble,
            memory=self._terms.memory,
            pieces=tuple(pieces),
            analyzing=tuple(analyzing),
        )
        for attempt in range(1, _DEADLOCK_ATTEMPTS + 1):
            self._refuse_stopped()
            try:
                with self._places.one():
                    self._hands.built(wanted)
            except QueryFailed as error:
                if error.sqlstate in IN_THE_WAY:
                    raise _in_the_way(error, pieces) from error
                if error.sqlstate != "40P01" or attempt == _DEADLOCK_ATTEMPTS:
                    raise
            else:
                break

    def _foreign_keys(self, entries: Sequence[Entry], finished: Container[str]) -> None:
        """Add foreign keys unchecked, many in a message, then check those of several tables at a time."""
        partitioned = {t.qualified for t in catalog.tables(self._workspace.target) if t.partitioned}
        # A partitioned table takes only checked ones, and what was not valid on the source stays so.
        plain = [e for e in entries if table_of(e) not in partitioned and not _UNCHECKED.search(e.sql)]
        self._in_messages(
            [
                Piece(sql=_ENDING.sub(" NOT VALID;", e.sql), key=f"{e.key} unchecked", type=e.type)
                for e in plain
                if f"{e.key} unchecked" not in finished
            ]
        )
        by_table: dict[str, list[Piece]] = defaultdict(list)
        for entry in plain:
            check = Piece(sql=_checking(entry), key=entry.key, type=entry.type)
            by_table[table_of(entry)].append(check)
        count = max(self._terms.jobs, self._workspace.steering().index_jobs or 0)
        lanes = [list(chain.from_iterable(list(by_table.values())[n::count])) for n in range(count)]
        with ThreadPoolExecutor(count, thread_name_prefix="check") as pool:
            for _ in pool.map(self._in_messages, lanes):
                pass
        self._in_messages([Piece(sql=e.sql, key=e.key, type=e.type) for e in entries if e not in plain])

    def _in_messages(self, pieces: Sequence[Piece]) -> None:
        for place in range(0, len(pieces), _AT_ONCE):
            self._transaction(pieces[place : place + _AT_ONCE], ())


def table_of(entry: Entry) -> str:
    """The table an INDEX, CONSTRAINT or FK CONSTRAINT entry belongs to, as ``Table.qualified``; empty if unknown."""
    if entry.type == "INDEX":
        match = _INDEX_OF.search(entry.sql)
        words = match.groups()[1:] if match else ()
    else:
        match = _CONSTRAINT_OF.search(entry.sql)
        words = match.groups() if match else ()
    return catalog.qualified(*map(_unquoted, words)) if len(words) == 2 else ""


def unique(entry: Entry) -> bool:
    """True for what rows of two streams can collide in for a moment: unique indexes but the primary key's."""
    if entry.type == "INDEX":
        return entry.sql.lstrip().startswith("CREATE UNIQUE")
    return _PRIMARY.match(entry.sql) is None


def _in_the_way(error: QueryFailed, pieces: Sequence[Piece]) -> StepConflict:
    statement = pieces[0].sql.strip() if len(pieces) == 1 else f"one of {len(pieces)} statements"
    return StepConflict(
        f"{error.message}, and this plan did not make it as the source has it now ({statement})",
        remedy="Someone made it on the target, or its definition was changed on the source since the copy began. Drop it"
        " on the target, then run `planrunner run` again, which makes it as on the source.",
    )


def _checking(entry: Entry) -> str:
    match = _NAMED.search(entry.sql)
    assert match is not None
    return f"ALTER TABLE {match[1]}.{match[2]} VALIDATE CONSTRAINT {match[3]};"


def _unquoted(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word
