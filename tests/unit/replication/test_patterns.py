"""Patterns of table names: what they match, hostile names among them, and how one table is written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planrunner.replication.patterns import Pattern, written

NAMES = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("pattern", "schema", "name"),
    [
        ("public.orders", "public", "orders"),
        ("public.*", "public", "any thing.at\nall"),
        ("*.log_?", "audit", "log_7"),
        ('"a.b"."c"', "a.b", "c"),
        ('public."or""ders"', "public", 'or"ders'),
        ('public."*"', "public", "*"),
        ("Ünï.Größe", "Ünï", "Größe"),
        ("public.a[b]+", "public", "a[b]+"),
    ],
)
def test_a_pattern_matches(pattern: str, schema: str, name: str) -> None:
    assert Pattern(pattern).matches(schema, name)


@pytest.mark.parametrize(
    ("pattern", "schema", "name"),
    [
        ("public.orders", "public", "Orders"),
        ("public.orders", "public", "orders2"),
        ("public.inv_?", "public", "inv_"),
        ('public."*"', "public", "orders"),
        ("public.*", "public2", "orders"),
        ('"a.b"."c"', "a", "b.c"),
        ("public.a.*", "public", "a.b"),
    ],
)
def test_a_pattern_does_not_match(pattern: str, schema: str, name: str) -> None:
    if pattern.count(".") > 1 and '"' not in pattern:
        with pytest.raises(ValueError, match="not a table pattern"):
            Pattern(pattern)
    else:
        assert not Pattern(pattern).matches(schema, name)


@pytest.mark.parametrize(
    "text", ["", "orders", ".orders", "public.", 'public."x', 'public.a"b', "a.b.c", '"".x']
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a table pattern"):
        Pattern(text)


@settings(deadline=None)
@given(NAMES, NAMES, NAMES, NAMES)
def test_a_written_name_matches_itself_and_no_other(schema: str, name: str, other: str, more: str) -> None:
    pattern = Pattern(written(schema, name))
    assert pattern.matches(schema, name)
    assert pattern.matches(other, more) == ((other, more) == (schema, name))
