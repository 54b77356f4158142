"""The kinds of transactions: the statements of each, and the rows that are there when it has happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.faults.referee.tables import ACCOUNTS, DOCUMENTS, LISTS, TOKENS, body

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

# A row of a table, as the judge names it: the table and what is in it.
Trace = tuple[Any, ...]
# How often each kind comes, in a thousand.
WEIGHTS: Mapping[str, int] = {
    "transfer": 240,
    "append": 150,
    "move": 100,
    "pile": 140,
    "item": 140,
    "delete": 70,
    "document": 60,
    "savepoint": 30,
    "several": 40,
    "collide": 5,
    "ticket": 15,
    "scratch": 9,
    "truncate": 1,
}
# One session alone does these, since what they leave depends on their order.
ALONE = ("scratch", "truncate")
# The answer that is meant to come.
COLLISION = "23505"


@dataclass(frozen=True, kw_only=True)
class Deed:
    """A transaction to be sent as one message."""

    tx: int
    kind: str
    about: dict[str, int]
    statement: str


class Deck:
    """Draws one worker's transactions; each worker has tokens, documents and items that no other touches."""

    def __init__(self, chance: random.Random, worker: int, workers: int) -> None:
        self._chance, self._worker, self._workers = chance, worker, workers
        self._count = 0
        self._items: list[int] = []
        kinds = [kind for kind in WEIGHTS if worker == 0 or kind not in ALONE]
        # What only one does comes as often as if all did it.
        self._kinds = {kind: WEIGHTS[kind] * (workers if kind in ALONE else 1) for kind in kinds}

    def draw(self) -> Deed:
        """The next one."""
        self._count += 1
        tx = self._count * self._workers + self._worker
        kind = self._chance.choices(list(self._kinds), list(self._kinds.values()))[0]
        if kind == "delete" and not self._items:
            kind = "item"
        about = self._about(kind, tx)
        return Deed(tx=tx, kind=kind, about=about, statement=statement(kind, tx, about))

    def item_is_there(self, number: int) -> None:
        """One that may be deleted later."""
        self._items.append(number)

    def _about(self, kind: str, tx: int) -> dict[str, int]:
        about: dict[str, int] = {}
        if kind in {"transfer", "several", "savepoint", "collide"}:
            about["debit"], about["credit"] = self._chance.sample(range(1, ACCOUNTS + 1), 2)
            about["amount"] = self._chance.randint(1, 50)
        if kind in {"append", "several"}:
            about["list"] = self._chance.randint(1, LISTS)
        if kind in {"move", "several"}:
            about["name"], about["place"] = self._own(TOKENS), tx
        if kind == "document":
            about["id"] = self._own(DOCUMENTS)
            about["new_text"] = int(self._chance.random() < 0.3)
        if kind == "delete":
            about["item"] = self._items.pop(self._chance.randrange(len(self._items)))
        return about

    def _own(self, many: int) -> int:
        return self._chance.randrange(many // self._workers) * self._workers + self._worker + 1


def statement(kind: str, tx: int, about: Mapping[str, int]) -> str:
    """What is sent: numbers and texts of our own, so nothing has to be quoted."""
    if kind == "document":
        return _document(tx, about)
    parts = [part.format(tx=tx, **about) for part in _STATEMENTS[kind]]
    # One is a transaction by itself.
    return parts[0] if len(parts) == 1 else "; ".join(("BEGIN", *parts, "COMMIT"))


def traces(kind: str, about: Mapping[str, int]) -> Counter[Trace]:
    """The rows that bear the number of a transaction once it has happened: these, each so many times, and no others."""
    found: list[Trace] = []
    if kind in {"transfer", "several"}:
        found.append(("transfer", about["debit"], about["credit"], about["amount"]))
    if kind in {"append", "several"}:
        found.append(("list", about["list"]))
    if kind in {"move", "several"}:
        found.append(("move", about["name"], about["place"]))
    if kind in {"pile", "several", "savepoint"}:
        found += [("pile", "same"), ("pile", "same"), ("pile", "other")]
    if kind in {"item", "savepoint"}:
        found.append(("item", kind if kind == "item" else "kept"))
    return Counter(found)


# Both accounts by one statement, and the row that tells of it.
_TRANSFER = (
    "WITH moved AS (UPDATE referee.account SET balance = balance + CASE id WHEN {debit} THEN -{amount} ELSE {amount}"
    " END WHERE id IN ({debit}, {credit}) RETURNING id) INSERT INTO referee.transfer"
    " SELECT {tx}, {debit}, {credit}, {amount} FROM moved HAVING count(*) = 2"
)
_APPEND = (
    "UPDATE referee.list SET items = items || {tx}::bigint WHERE id = {list} RETURNING cardinality(items)"
)
# By its name, for where it is may be unknown.
_MOVE = (
    "WITH moved AS (UPDATE referee.token SET place = {place} WHERE name = {name} RETURNING name, place)"
    " INSERT INTO referee.move SELECT {tx}, name, place FROM moved"
)
# Two rows that nothing tells apart.
_PILE = "INSERT INTO referee.pile VALUES ({tx}, 'same'), ({tx}, 'same'), ({tx}, 'other')"
_ITEM = "INSERT INTO referee.item (tx, note) VALUES ({tx}, 'kept')"
_STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "transfer": (_TRANSFER,),
    "append": (_APPEND,),
    "move": (_MOVE,),
    "pile": (_PILE,),
    "item": ("INSERT INTO referee.item (tx, note) VALUES ({tx}, 'item') RETURNING id",),
    "delete": ("DELETE FROM referee.item WHERE id = {item}",),
    "savepoint": (
        *(_ITEM, "SAVEPOINT s", "INSERT INTO referee.pile VALUES ({tx}, 'undone')", _TRANSFER),
        *("ROLLBACK TO s", _PILE),
    ),
    # Rows that sessions share come last, so that their locks are held for a moment only.
    "several": (_PILE, _MOVE, _TRANSFER, _APPEND),
    "collide": (_TRANSFER, _ITEM, _ITEM),
    "ticket": ("SELECT nextval('referee.ticket')",),
    "scratch": ("INSERT INTO referee.scratch VALUES ({tx}, false)",),
    "truncate": ("TRUNCATE referee.scratch", "INSERT INTO referee.scratch VALUES ({tx}, true)"),
}


def _document(tx: int, about: Mapping[str, int]) -> str:
    text = f", edition = {tx}, body = '{body(about['id'], tx)}'" if about["new_text"] else ""
    return f"UPDATE referee.document SET tx = {tx}, changes = changes + 1{text} WHERE id = {about['id']}"
