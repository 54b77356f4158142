"""The place of a key among its like, by its text form."""

from __future__ import annotations

import itertools

import pytest

from planrunner.replication.key_order import comparable

SORTED = {
    "bigint": ["-9223372036854775808", "-10", "-9", "0", "9", "10", "9223372036854775807"],
    "numeric": ["-Infinity", "-10", "-9.5", "0", "0.1", "1e3", "1000.5", "Infinity", "NaN"],
    "uuid": [
        "00000000-0000-0000-0000-000000000000",
        "9fffffff-0000-0000-0000-000000000000",
        "a0000000-0000-0000-0000-000000000000",
    ],
    "date": ["-infinity", "0045-03-15 BC", "0044-03-15 BC", "0044-04-15 BC", "0001-01-01", "9999-12-31"],
    "timestamp with time zone": [
        "0002-12-31 23:00:00+00 BC",
        "0001-01-01 00:00:00+00 BC",
        "0001-01-01 00:00:00+00",
        "2024-01-01 09:00:00.45+00",
        "2024-01-01 09:00:00.5+00",
        "2024-01-01 09:00:01+00",
        "10000-01-01 00:00:00+00",
        "infinity",
    ],
    "timestamp without time zone": ["2024-01-01 00:00:00", "2024-01-01 00:00:00.000001"],
    "text": ["", "A", "a", "z", "é", "漢", "𝄞"],
}


@pytest.mark.parametrize("kind", SORTED)
def test_forms_sort_as_the_server_sorts_their_values(kind: str) -> None:
    places = [comparable(kind, text) for text in SORTED[kind]]
    assert all(first < second for first, second in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("kind", "text"), [("integer", "x"), ("date", "01/02/2024"), ("text", "\ufffd"), ("numeric", "ten")]
)
def test_a_form_that_is_not_known_has_no_place(kind: str, text: str) -> None:
    with pytest.raises((ValueError, ArithmeticError)):
        comparable(kind, text)
