"""Proves every bucket live, keeps that in the ledger round by round, and goes after what has changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.failpoints import failpoint
from planrunner.replication import proof_book, rounds, tracker, verdicts
from planrunner.replication.proof_book import Proof
from planrunner.replication.rounds import Comparing, Found, Stage, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from planrunner.postgres.catalog import Table
    from planrunner.replication.proof_book import Book
    from planrunner.replication.workspace import Workspace
    from planrunner.verification import TableVerdict

_SCAN = "scan"
# How often at most what has changed is compared again, and how little of it is left to the pause.
_TURNS = 8
_LITTLE = 20
_SHRINKING = 0.7


class Prover:
    """One live verification: what is proven goes into the ledger round by round."""

    def __init__(self, workspace: Workspace, stage: Stage, book: Book, untracked: frozenset[str]) -> None:
        self._workspace = workspace
        self._stage = stage
        self._book = book
        self._untracked = untracked
        self._differing: dict[str, list[Found]] = {}
        self._once: dict[str, dict[int, Found]] = {name: {} for name in untracked}
        self._first = {name: set(book.unproven(name)) for name in book.cuts}
        self._work = Comparing(stage, book.cuts, {})

    def run(self) -> None:
        """Everything first, then what changed, until little has or it gets no less."""
        self._buckets(0)
        self._measured()
        left = self.pending()
        for turn in range(1, _TURNS):
            if left == 0:
                return
            self._buckets(turn)
            self._rows()
            before, left = left, self.pending()
            # What was never decided may yet be, in smaller parts.
            never = any(self._left(name) & numbers for name, numbers in self._first.items())
            if left <= _LITTLE or (left > _SHRINKING * before and not (never and turn < rounds.LEVELS)):
                return

    def tell(self) -> None:
        """Say how far it came."""
        buckets = sum(cut.count for cut in self._book.cuts.values())
        proven = sum(map(len, self._book.proofs.values()))
        self._workspace.tell(
            f"live verification: {proven} of {buckets} buckets of {len(self._book.cuts)} tables are proven equal,"
            f" {self.pending()} buckets and rows are left for the pause",
            {"buckets": buckets, "proven": proven, "pending": self.pending()},
        )

    def _measured(self) -> None:
        """Record what the first pass took, unless it had little left to read."""
        effects = self._workspace.ledger.effects(proof_book.STEP)
        seconds, read = self._stage.seconds, self._stage.bytes
        if read >= effects.get(_SCAN, {"bytes": 0})["bytes"] / 2:
            self._workspace.done(proof_book.STEP, _SCAN, {"seconds": round(seconds, 3), "bytes": read})

    def scan_seconds(self, tables: Iterable[Table]) -> float:
        """What digesting everything on both sides takes, by what a first pass took."""
        scan = self._workspace.ledger.effects(proof_book.STEP)[_SCAN]
        share = sum(t.data_bytes for t in tables) / max(1, scan["bytes"])
        return float(scan["seconds"] * max(1.0, share))

    def pending(self) -> int:
        """Buckets and rows that are left; of a table that differs nothing more is asked."""
        open_ones = [name for name in self._book.cuts if name not in self._differing]
        keys = sum(len(self._book.touched.get(name, {})) for name in open_ones)
        return keys + sum(len(self._left(name)) for name in open_ones)

    def _left(self, name: str) -> set[int]:
        done = {one.number for one in self._differing.get(name, [])}
        return set(self._book.unproven(name)) - done - set(self._once.get(name, {}))

    def _buckets(self, level: int) -> None:
        self._work.open = {name: left for name in self._book.cuts if (left := self._left(name))}
        for decided in self._work.attempt(level):
            for one in decided:
                self._take(one)
            self._keep(decided)

    def _take(self, one: Found) -> None:
        self._first[one.name].discard(one.number)
        if one.state is State.DIFFERENT:
            self._differing.setdefault(one.name, []).append(one)
        elif one.name in self._untracked:
            # Not every change of it will be told, so nothing of it stays proven.
            self._once[one.name][one.number] = one
        else:
            proof = Proof(rows=one.ours.rows, seen=one.seen, at_once=one.at_once)
            self._book.prove(one.name, one.number, proof)

    def _keep(self, decided: Sequence[Found]) -> None:
        """Record what was decided, then look at what changed meanwhile: so the slot never keeps much."""
        seen: dict[str, dict[int, Found]] = {}
        for one in decided:
            seen.setdefault(one.name, {})[one.number] = one
        for name, found in seen.items():
            self._book.settle(name, {number: one.seen for number, one in found.items()})
        with self._workspace.writing() as session:
            self._book.write(session, self._workspace.names.plan_id)
        failpoint("verify.recorded")
        tracker.read(self._workspace, self._stage.ends, self._book)

    def _rows(self) -> None:
        todo = {name: list(keys) for name, keys in self._book.touched.items() if name not in self._differing}
        for decided in rounds.rows(self._stage, self._book.cuts, todo):
            for one in decided:
                if one.state is State.DIFFERENT:
                    self._differing.setdefault(one.name, []).append(one)
                    continue
                known = self._book.touched[one.name]
                self._book.forget_keys(
                    one.name, [k for k in one.keys if k in known and one.seen.saw(known[k])]
                )
        self._keep(())

    def verdicts(self, tables: Iterable[Table]) -> list[TableVerdict]:
        """One for every table but the undecided, which are told."""
        made: list[TableVerdict] = []
        undecided: list[str] = []
        for table in tables:
            name = table.qualified
            differing = self._differing.get(name, [])
            if self._left(name) and not differing:
                undecided.append(name)
                continue
            proven = sum(proof.rows for proof in self._book.proofs.get(name, {}).values())
            made.append(
                verdicts.of_parts(
                    table,
                    self._stage.ends,
                    [*differing, *self._once.get(name, {}).values()],
                    rows=(proven, proven),
                    equal=not differing,
                    how=verdicts.LIVE,
                    open_parts=bool(self._left(name)),
                )
            )
        tell_undecided(self._workspace, undecided)
        return made


def tell_undecided(workspace: Workspace, names: Sequence[str]) -> None:
    """Name the tables that only the comparison inside the fence can decide."""
    if names:
        workspace.tell(
            f"{len(names)} tables changed during every live comparison and are decided inside the fence",
            {"undecided": sorted(names)},
        )
