"""Rounds of live comparison: several buckets of several tables share one barrier.

Per round: S1, whose snapshot is taken first; a barrier; then S1 and T = digest(target) are read at the same time.
S1 = T proves that the target has what the source had at that snapshot. Where they differ, S2 = digest(source)
tells why: S1 ≠ S2, the bucket changed meanwhile and is tried again, with fewer others, then in parts; S1 = S2 ≠ T
is a difference when two more looks find the same three: a row that came and went in between looks like one, once.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from planrunner.replication import buckets
from planrunner.replication.pieces import ROWS, Piece, Readers, strays_counted
from planrunner.replication.throttle import Effort, Throttle

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from planrunner.replication.buckets import Cut, Point
    from planrunner.replication.checksum import Digest
    from planrunner.replication.ends import Ends
    from planrunner.replication.inside import Inside
    from planrunner.replication.pieces import Reading
    from planrunner.replication.visible import Visible
    from planrunner.replication.workspace import Workspace

T = TypeVar("T")
LEVELS = 6
BARRIER_SECONDS = 600.0
READ_SECONDS = 24 * 3600.0
# How many buckets a round reads, by level: the fewer, the shorter the while in which one may change.
_ROUND_BUCKETS = (64, 8, 2, 1)
_SPAN_BUCKETS = 32
_KEYS_A_PIECE = (1000, 100, 10)
_PIECES_A_ROUND = 100
_NARROW_AFTER = 2
# How often more a difference must be found alike.
_CONFIRMATIONS = 2


class State(Enum):
    """What an attempt found."""

    EQUAL = "equal"
    DIFFERENT = "different"
    SUSPECT = "suspect"
    MOVED = "moved"


@dataclass(frozen=True, kw_only=True)
class Found:
    """What is known of a bucket, or of the single rows ``keys``: both digests, and what the publisher had ``seen``.

    ``ours`` is the publisher's. ``at_once`` is False when the bucket was settled in parts, the first under ``seen``;
    ``whole`` is False when some of those were left, for others differ.
    """

    name: str
    number: int
    state: State
    ours: Digest
    theirs: Digest
    seen: Visible
    keys: tuple[Point, ...] = ()
    at_once: bool = True
    whole: bool = True


class Stage:
    """The sessions of a comparison on both ends; a context manager. ``seconds`` and ``bytes`` add up what was read."""

    def __init__(
        self, workspace: Workspace, ends: Ends, effort: Effort, *, counts_only: bool = False
    ) -> None:
        self._workspace = workspace
        self.ends = ends
        self._throttle = Throttle(workspace, ends.publisher, effort.max_load)
        self._ours, self._theirs = (
            Readers(
                server,
                jobs=effort.jobs,
                counts_only=counts_only,
                strays=strays_counted(server, ends.subscriber),
            )
            for server in (ends.publisher, ends.subscriber)
        )
        self.bucket_bytes, self.jobs = effort.bucket_bytes, effort.jobs
        self.seconds = 0.0
        self.bytes = 0

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._theirs.close()

    def both(
        self, pieces: Sequence[Piece], *, timeout: float, fence: Inside | None = None
    ) -> tuple[list[Reading], list[Reading]]:
        """What ``pieces`` have on the publisher and on the subscriber, read at the same time."""
        with ThreadPoolExecutor(2) as pool:
            ours = pool.submit(self._ours.read, pieces, timeout=timeout, fence=fence)
            theirs = pool.submit(self._theirs.read, pieces, timeout=timeout)
            return ours.result(), theirs.result()

    def round(self, pieces: Sequence[Piece]) -> list[list[Found]]:
        """Compare ``pieces``: for each of them what was found of each of its buckets, EQUAL, DIFFERENT or MOVED."""
        found = self._once(pieces)
        for _ in range(_CONFIRMATIONS):
            again = _narrowed_to(pieces, found, State.SUSPECT)
            if not again:
                return found
            looks = dict(zip(again, self._once(list(again.values())), strict=True))
            found = [
                [_alike(one, looks[place]) if one.state is State.SUSPECT else one for one in here]
                for place, here in enumerate(found)
            ]
        return [
            [replace(one, state=State.DIFFERENT) if one.state is State.SUSPECT else one for one in here]
            for here in found
        ]

    def _once(self, pieces: Sequence[Piece]) -> list[list[Found]]:
        """S1, barrier, T, and S2 of what differs."""
        self._throttle.wait()
        self._fit()
        self._ours.freeze(pieces)
        self.ends.wait(BARRIER_SECONDS)
        begun = self._workspace.clock.monotonic()
        ours, theirs = self.both(pieces, timeout=READ_SECONDS)
        self.seconds += self._workspace.clock.monotonic() - begun
        self.bytes += sum(piece.bytes for piece in pieces)
        first = [_compared(*three) for three in zip(pieces, ours, theirs, strict=True)]
        again = _narrowed_to(pieces, first, State.SUSPECT)
        if not again:
            return first
        second = dict(zip(again, self._ours.read(list(again.values()), timeout=READ_SECONDS), strict=True))
        return [
            [
                replace(one, state=State.MOVED)
                if one.state is State.SUSPECT and second[place].of(one.number) != one.ours
                else one
                for one in here
            ]
            for place, here in enumerate(first)
        ]

    def _fit(self) -> None:
        asked = self._workspace.steering().jobs
        for readers in (self._ours, self._theirs):
            readers.fit(self.jobs if asked is None else min(asked, self.jobs))

    def settled(self, pieces: Sequence[Piece], *, timeout: float, fence: Inside | None = None) -> list[Found]:
        """Compare ``pieces`` while nothing is written on either side: what differs now differs."""
        found = zip(pieces, *self.both(pieces, timeout=timeout, fence=fence), strict=True)
        return [one for three in found for one in _compared(*three)]


def _compared(piece: Piece, ours: Reading, theirs: Reading) -> list[Found]:
    return [
        Found(
            name=piece.cut.table.qualified,
            number=number,
            state=State.EQUAL if ours.of(number) == theirs.of(number) else State.SUSPECT,
            ours=ours.of(number),
            theirs=theirs.of(number),
            seen=ours.seen,
            keys=piece.keys,
        )
        for number in piece.numbers or (ROWS,)
    ]


def _narrowed_to(pieces: Sequence[Piece], found: Sequence[Sequence[Found]], state: State) -> dict[int, Piece]:
    """What of ``pieces`` is in ``state``, by the place of each."""
    made: dict[int, Piece] = {}
    for place, (piece, here) in enumerate(zip(pieces, found, strict=True)):
        numbers = tuple(one.number for one in here if one.state is state)
        if numbers:
            made[place] = piece if piece.keys else replace(piece, numbers=numbers)
    return made


def _alike(one: Found, looks: Sequence[Found]) -> Found:
    """A suspect after another look: it stays one only if that found the same digests."""
    look = next(found for found in looks if found.number == one.number)
    if look.state is State.SUSPECT and (look.ours, look.theirs) != (one.ours, one.theirs):
        return replace(look, state=State.MOVED)
    return look


@dataclass
class _Parts:
    """A bucket that is settled in parts: those still open, and what those that are settled were."""

    cut: Cut
    open: set[int]
    settled: list[Found] = field(default_factory=list)


class Comparing:
    """Buckets that are yet to be decided, attempt after attempt."""

    def __init__(self, stage: Stage, cuts: Mapping[str, Cut], todo: Mapping[str, Sequence[int]]) -> None:
        self._stage = stage
        self._cuts = cuts
        self.open = {name: set(numbers) for name, numbers in todo.items() if numbers}
        self._moved: Counter[tuple[str, int]] = Counter()
        self._parts: dict[tuple[str, int], _Parts] = {}

    @property
    def undecided(self) -> dict[str, set[int]]:
        """What is still open, by table."""
        return {name: numbers for name, numbers in self.open.items() if numbers}

    def attempt(self, level: int) -> Iterator[list[Found]]:
        """Try what is open once; yields what each round has decided, EQUAL or DIFFERENT."""
        most = _ROUND_BUCKETS[min(level, len(_ROUND_BUCKETS) - 1)] * self._stage.bucket_bytes
        for pieces in _rounds(list(self._pieces(most)), most):
            decided: list[Found] = []
            for (_, parent), found in zip(pieces, self._stage.round([p for p, _ in pieces]), strict=True):
                if not parent:
                    self._moved.update((one.name, one.number) for one in found if one.state is State.MOVED)
                settled = [one for one in found if one.state is not State.MOVED]
                decided += self._joined(settled, parent) if parent else settled
            for one in decided:
                self._close(one)
            yield decided

    def _close(self, decided: Found) -> None:
        """What is opened again later begins anew."""
        place = (decided.name, decided.number)
        self.open[decided.name].discard(decided.number)
        self._parts.pop(place, None)
        self._moved.pop(place, None)

    def _pieces(self, most: int) -> Iterator[tuple[Piece, int]]:
        """The pieces of this attempt, each with the bucket that it is a part of (0: it holds buckets)."""
        for name, numbers in self.open.items():
            cut, whole = self._cuts[name], sorted(numbers)
            for number in [n for n in whole if self._moved[name, n] >= _NARROW_AFTER]:
                parts = self._part(cut, number)
                whole.remove(number)
                yield Piece(cut=parts.cut, numbers=tuple(sorted(parts.open))), number
            # Every session gets some of a table that can be read in ranges.
            share = -(-len(whole) // self._stage.jobs)
            for span in _spans(cut, whole, min(share, _SPAN_BUCKETS, most // self._stage.bucket_bytes)):
                yield Piece(cut=cut, numbers=span), 0

    def _part(self, cut: Cut, number: int) -> _Parts:
        place = (cut.table.qualified, number)
        if place not in self._parts:
            inner = buckets.narrowed(self._stage.ends.publisher, cut, number)
            self._parts[place] = _Parts(cut=inner, open=set(range(1, inner.count + 1)))
        return self._parts[place]

    def _joined(self, settled: Sequence[Found], parent: int) -> list[Found]:
        """The bucket whose parts ``settled`` are, once it is decided."""
        if not settled:
            return []
        parts = self._parts[settled[0].name, parent]
        parts.open -= {one.number for one in settled}
        parts.settled += settled
        different = any(one.state is State.DIFFERENT for one in settled)
        if parts.open and not different:
            return []
        joined = Found(
            name=settled[0].name,
            number=parent,
            state=State.DIFFERENT if different else State.EQUAL,
            ours=_sum([one.ours for one in parts.settled]),
            theirs=_sum([one.theirs for one in parts.settled]),
            seen=min((one.seen for one in parts.settled), key=lambda seen: seen.age),
            at_once=len(parts.settled) == 1,
            whole=not parts.open,
        )
        return [joined]


def _sum(digests: Sequence[Digest]) -> Digest:
    return replace(
        digests[0], rows=sum(d.rows for d in digests), strays=sum(d.strays for d in digests), hashes=""
    )


def rows(stage: Stage, cuts: Mapping[str, Cut], keys: Mapping[str, Sequence[Point]]) -> Iterator[list[Found]]:
    """Compare single rows by their keys; yields what each round has decided. Rows that never rest stay open."""
    todo = {name: set(found) for name, found in keys.items() if found}
    for size in _KEYS_A_PIECE:
        pieces = [
            Piece(cut=cuts[name], keys=tuple(some))
            for name, found in todo.items()
            for some in _chunks(sorted(found), size)
        ]
        for chunk in _chunks(pieces, _PIECES_A_ROUND):
            decided = [one for (one,) in stage.round(chunk) if one.state is not State.MOVED]
            for one in decided:
                todo[one.name] -= set(one.keys)
            yield decided


def _chunks(things: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for begin in range(0, len(things), size):
        yield things[begin : begin + size]


def _spans(cut: Cut, numbers: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """``numbers`` in runs of at most so many; all at once where the table is read in one scan."""
    for some in _chunks(numbers, max(1, most if cut.ordered else len(numbers))):
        yield tuple(some)


def _rounds(pieces: Sequence[tuple[Piece, int]], most: int) -> Iterator[list[tuple[Piece, int]]]:
    found: list[tuple[Piece, int]] = []
    size = 0
    for piece in pieces:
        if found and size + piece[0].bytes > most:
            yield found
            found, size = [], 0
        found.append(piece)
        size += piece[0].bytes
    if found:
        yield found
