"""Grants as text: exact, quoted, and the same after a round trip through a ledger."""

from __future__ import annotations

import json

import pytest

from planrunner.postgres.grants import Grant, Kind

HOSTILE = 'Robert"; DROP TABLE x;--%s{}'
GRANTS = [
    Grant(kind=Kind.ROLE, names=("rds_replication",), login="m", inherit=True),
    Grant(kind=Kind.DATABASE, names=(HOSTILE,), login="m"),
    Grant(kind=Kind.SCHEMA, names=("sales",), login=HOSTILE),
    Grant(kind=Kind.TABLE, names=("a", HOSTILE), schema="s", login="m"),
    Grant(kind=Kind.SEQUENCE, names=("n",), schema="s", login="m"),
]
QUOTED = '"Robert""; DROP TABLE x;--%s{}"'


def test_grants_are_the_exact_statements_with_every_name_quoted() -> None:
    assert [grant.give().as_string() for grant in GRANTS] == [
        'GRANT "rds_replication" TO "m" WITH INHERIT TRUE',
        f'GRANT CREATE ON DATABASE {QUOTED} TO "m"',
        f'GRANT USAGE ON SCHEMA "sales" TO {QUOTED}',
        f'GRANT SELECT ON TABLE "s"."a", "s".{QUOTED} TO "m"',
        'GRANT SELECT ON SEQUENCE "s"."n" TO "m"',
    ]


@pytest.mark.parametrize("grant", GRANTS, ids=lambda grant: grant.kind.value)
def test_a_recorded_grant_is_taken_back_as_it_was_given(grant: Grant) -> None:
    read = Grant.from_detail(json.loads(json.dumps(grant.detail())))
    assert read.take_back() == grant.take_back()
    assert read.key == grant.key


def test_other_names_are_recorded_under_another_key() -> None:
    first = Grant(kind=Kind.TABLE, names=("a",), schema="s", login="m")
    second = Grant(kind=Kind.TABLE, names=("b",), schema="s", login="m")
    assert first.key != second.key
