"""Messages as servers sent them (15 and 16), taken with pg_logical_slot_peek_binary_changes."""

from __future__ import annotations

from planrunner.postgres.lsn import Lsn
from planrunner.replication.pgoutput import transactions

BEGIN = b"B\x00\x00\x00\x00\x01Hh\x80\x00\x03\x04\x0ch\x89\xd1\x9b\x00\x00\x02\xe0"
RELATION = (
    b"R\x00\x00@\x00public\x00t\x00d\x00\x03\x01id\x00\x00\x00\x00\x17\xff\xff\xff\xff\x00v\x00\x00\x00\x00\x19"
    b"\xff\xff\xff\xff\x00u\x00\x00\x00\x00\x19\xff\xff\xff\xff"
)
INSERT = b"I\x00\x00@\x00N\x00\x03t\x00\x00\x00\x017t\x00\x00\x00\x01qt\x00\x00\x00\x01c"
COMMIT = b"C\x00\x00\x00\x00\x00\x01Hh\x80\x00\x00\x00\x00\x01Hh\xb0\x00\x03\x04\x0ch\x89\xd1\x9b"
# UPDATE t SET id = 8, v = NULL: the old key, then the new row, whose u is an unchanged TOAST value.
MOVE = b"U\x00\x00@\x00K\x00\x03t\x00\x00\x00\x017nnN\x00\x03t\x00\x00\x00\x018nu"
PLAIN_UPDATE = b"U\x00\x00@\x00N\x00\x03t\x00\x00\x00\x018nt\x00\x00\x00\x01c"
DELETE = b"D\x00\x00@\x00K\x00\x03t\x00\x00\x00\x018nn"
TRUNCATE = b"T\x00\x00\x00\x01\x00\x00\x00@\x00"


def stream(*messages: bytes) -> list[tuple[str, bytes]]:
    return [("0/14867C0", message) for message in messages]


def test_an_insert_is_read_with_relation_key_and_lsns() -> None:
    (found,) = transactions(stream(BEGIN, RELATION, INSERT, COMMIT))
    (change,) = found.changes
    assert found.commit == Lsn.parse("0/1486880")
    assert (change.kind, change.relation.qualified, change.relation.key) == ("INSERT", "public.t", ("id",))
    assert change.new == {"id": "7", "v": "q", "u": "c"}
    assert change.key == {"id": "7"}
    assert change.lsn == Lsn.parse("0/14867C0")


def test_an_update_that_moves_the_key_has_both_keys_and_no_value_that_was_not_sent() -> None:
    (found,) = transactions(stream(BEGIN, RELATION, MOVE, COMMIT))
    (change,) = found.changes
    assert change.old == {"id": "7"}
    assert change.new == {"id": "8", "v": None}


def test_update_delete_and_truncate_are_told_apart() -> None:
    (found,) = transactions(stream(BEGIN, RELATION, PLAIN_UPDATE, DELETE, TRUNCATE, COMMIT))
    assert [change.kind for change in found.changes] == ["UPDATE", "DELETE", "TRUNCATE"]
    assert [change.key for change in found.changes] == [{"id": "8"}, {"id": "8"}, {}]


def test_transactions_end_at_their_commit_and_the_last_may_be_cut_off() -> None:
    messages = stream(BEGIN, RELATION, INSERT, COMMIT, BEGIN, COMMIT, BEGIN, DELETE)
    assert [[c.kind for c in t.changes] for t in transactions(messages)] == [["INSERT"], [], ["DELETE"]]
