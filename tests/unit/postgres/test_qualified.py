"""The one name of a table that people, ledgers and comparisons share: the same for no two tables."""

from __future__ import annotations

from itertools import product

from planrunner.postgres.catalog import parted, qualified
from tests.faults.hostile_names import EVERY

WORDS = [hostile.name for hostile in EVERY]


def test_no_two_tables_share_a_name_and_it_is_read_back() -> None:
    pairs = list(product(WORDS, WORDS))
    names = {qualified(*pair): pair for pair in pairs}
    assert len(names) == len(pairs)
    assert all(parted(name) == pair for name, pair in names.items())


def test_nothing_in_it_breaks_a_line_or_hides() -> None:
    assert all(qualified(word, "t").isprintable() for word in WORDS)
    assert qualified("public", "a\nb\\") == 'public.U&"a\\000ab\\\\"'
    assert qualified("a.b", 'c"') == '"a.b"."c"""'
    assert qualified("public", "orders") == "public.orders"


def test_a_record_of_an_earlier_version_is_read_as_it_was() -> None:
    assert parted("public.a.b") == ("public", "a.b")
