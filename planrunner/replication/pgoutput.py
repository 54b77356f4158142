"""Reads the messages of pgoutput, protocol version 1, as far as naming a change of a row needs it.

The formats are those of the manual's chapter "Logical Replication Message Formats".
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

from planrunner.postgres.catalog import qualified
from planrunner.postgres.lsn import Lsn

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

_SHORT, _LONG = Struct("!H"), Struct("!I")
_NULL, _UNCHANGED = b"nu"


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A table as the stream describes it; ``key`` are the columns of its replica identity."""

    schema: str
    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    @property
    def qualified(self) -> str:
        """As ``Table.qualified``."""
        return qualified(self.schema, self.name)


# Text form by column; None is NULL, and a column that was sent unchanged (TOAST) is not there.
Values: TypeAlias = "Mapping[str, str | None]"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One change of a transaction: ``kind`` is INSERT, UPDATE, DELETE or TRUNCATE.

    ``old`` is the identity that an UPDATE or DELETE looks for, ``new`` the row to write; ``lsn`` is
    where the source wrote the change. A TRUNCATE has one entry for each of its tables.
    """

    kind: str
    relation: Relation
    lsn: Lsn
    old: Values
    new: Values

    @property
    def key(self) -> Values:
        """The row's identity: what the change looks for, else what it writes."""
        return self.old or {name: self.new[name] for name in self.relation.key if name in self.new}


@dataclass(frozen=True, kw_only=True)
class Transaction:
    """A committed transaction; ``commit`` is the LSN the apply worker's log calls its finish."""

    commit: Lsn
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class Begin:
    """A transaction begins: ``xid`` has 32 bits, ``commit`` is where its commit record stands."""

    xid: int
    commit: Lsn


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A transaction is complete; ``end`` is where its commit record ends."""

    end: Lsn


class _Bytes:
    """A cursor over one message."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def integer(self, count: int) -> int:
        return int.from_bytes(self.take(count), "big")

    def tuple(self, columns: Sequence[str]) -> dict[str, str | None]:
        """A row's values; written out in one piece, because a bulk change has millions of them."""
        data, at = self._data, self._at
        values: dict[str, str | None] = {}
        (count,) = _SHORT.unpack_from(data, at)
        at += 2
        for name in columns[:count]:
            form = data[at]
            at += 1
            if form == _NULL:
                values[name] = None
            elif form != _UNCHANGED:
                (size,) = _LONG.unpack_from(data, at)
                at += 4 + size
                values[name] = data[at - size : at].decode("utf-8", "replace")
        self._at = at
        return values

    def text(self) -> str:
        end = self._data.index(b"\0", self._at)
        found = self._data[self._at : end].decode("utf-8", "replace")
        self._at = end + 1
        return found


def transactions(messages: Iterable[tuple[str, bytes]]) -> Iterator[Transaction]:
    """The transactions in a run of ``(lsn, message)``; the last one may lack its end, it is given as it is."""
    relations: dict[int, Relation] = {}
    commit, changes = Lsn(0), list[Change]()
    for lsn, data in messages:
        kind, body = data[:1], _Bytes(data[1:])
        if kind == b"B":
            commit, changes = Lsn(body.integer(8)), []
        elif kind == b"R":
            relation_id, relation = _relation(body)
            relations[relation_id] = relation
        elif kind in {b"I", b"U", b"D"}:
            changes.append(_row_change(kind, body, relations, Lsn.parse(lsn)))
        elif kind == b"T":
            changes += _truncation(body, relations, Lsn.parse(lsn))
        elif kind == b"C":
            yield Transaction(commit=commit, changes=tuple(changes))
            changes = []
    if changes:
        yield Transaction(commit=commit, changes=tuple(changes))


def events(messages: Iterable[bytes]) -> Iterator[Begin | Change | Commit]:
    """The same one by one, so that no transaction has to be held whole; changes have the commit's LSN."""
    relations: dict[int, Relation] = {}
    commit = Lsn(0)
    for data in messages:
        kind, body = data[:1], _Bytes(data[1:])
        if kind == b"B":
            commit = Lsn(body.integer(8))
            body.take(8)  # the time of the commit
            yield Begin(xid=body.integer(4), commit=commit)
        elif kind == b"R":
            relation_id, relation = _relation(body)
            relations[relation_id] = relation
        elif kind in {b"I", b"U", b"D"}:
            yield _row_change(kind, body, relations, commit)
        elif kind == b"T":
            yield from _truncation(body, relations, commit)
        elif kind == b"C":
            body.take(9)  # flags, and where the commit record begins
            yield Commit(end=Lsn(body.integer(8)))


def _relation(body: _Bytes) -> tuple[int, Relation]:
    relation_id, schema, name = body.integer(4), body.text(), body.text()
    body.take(1)  # the letter of its replica identity: the columns' flags tell what we need
    columns, key = list[str](), list[str]()
    for _ in range(body.integer(2)):
        in_key = body.integer(1) & 1
        columns.append(body.text())
        if in_key:
            key.append(columns[-1])
        body.take(8)  # type and its modifier
    # An empty schema stands for pg_catalog.
    found = Relation(schema=schema or "pg_catalog", name=name, columns=tuple(columns), key=tuple(key))
    return relation_id, found


def _row_change(kind: bytes, body: _Bytes, relations: Mapping[int, Relation], lsn: Lsn) -> Change:
    relation = relations[body.integer(4)]
    old: Values = {}
    new: Values = {}
    tag = body.take(1)
    if tag in {b"K", b"O"}:
        values = body.tuple(relation.columns)
        # With K only the key's columns are filled; the others are sent as NULL and mean nothing.
        old = values if tag == b"O" else {name: values[name] for name in relation.key if name in values}
        tag = body.take(1)
    if tag == b"N":
        new = body.tuple(relation.columns)
    named = {b"I": "INSERT", b"U": "UPDATE", b"D": "DELETE"}[kind]
    return Change(kind=named, relation=relation, lsn=lsn, old=old, new=new)


def _truncation(body: _Bytes, relations: Mapping[int, Relation], lsn: Lsn) -> list[Change]:
    count = body.integer(4)
    body.take(1)  # CASCADE, RESTART IDENTITY
    return [
        Change(kind="TRUNCATE", relation=relations[body.integer(4)], lsn=lsn, old={}, new={})
        for _ in range(count)
    ]
