"""What looks like a password is taken out; what does not stays as it is."""

from __future__ import annotations

import html
import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest

from planrunner.masking import hush, hushed, masked, speak, without_hushed, without_passwords

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@host/db", "postgresql://ada:***@host/db"),
        ("host=h password=s3cret&more user=u", "host=h password=*** user=u"),
        ("host=h password='two words\\' and more' user=u", "host=h password=*** user=u"),
        ("PGPASSWORD = s3cret psql", "PGPASSWORD = *** psql"),
        ("ALTER ROLE a PASSWORD 's3''cret'", "ALTER ROLE a PASSWORD ***"),
        ('{"password": "s3\\"cret", "user": "u"}', '{"password": ***, "user": "u"}'),
        ("https://rds/?X-Amz-Signature=abc&x=1", "https://rds/?X-Amz-Signature=***&x=1"),
        ("roles without password: shop_app", "roles without password: shop_app"),
        ("postgresql://ada@host:5432/db", "postgresql://ada@host:5432/db"),
    ],
)
def test_passwords_are_masked_and_nothing_else(text: str, shown: str) -> None:
    assert masked(text) == shown


@dataclass(frozen=True, kw_only=True)
class Told:
    text: str
    parts: tuple[dict[str, object], ...]


@pytest.fixture
def sensitive() -> Iterator[str]:
    value = 'it\'s "so" <säcret> 100%25\nsecond line'
    hush(value)
    yield value
    speak()


def test_sensitive_value_is_masked_in_every_form_in_which_it_is_told(sensitive: str) -> None:
    forms = (
        sensitive,
        json.dumps(sensitive),
        json.dumps(sensitive, ensure_ascii=False),
        sensitive.replace("'", "''"),
        html.escape(sensitive),
        quote(sensitive, safe=""),
        unquote(sensitive),
        shlex.quote(sensitive),
        json.dumps(shlex.join(["--password", sensitive])),
        "  second line, indented",
        f"password={sensitive}",
    )
    for form in forms:
        told = masked(f"before {form} after")
        assert "***" in told
        assert not {"cret", "second", "so"} & set(told.replace('"', " ").replace("<", " ").split())


def test_what_a_statement_doubles_twice_over_is_masked() -> None:
    # As a literal of PostgreSQL's: E'it''s a\\\\b'.
    hush("it's a\\b")
    try:
        assert hushed("E'it''s a\\\\b'") == "E'***'"
    finally:
        speak()


def test_only_sensitive_values_are_hushed(sensitive: str) -> None:
    told = Told(text=f"password=a {sensitive}", parts=({"n": [sensitive, 1]},))

    assert without_hushed(told) == Told(text="password=a ***", parts=({"n": ["***", 1]},))
    assert without_hushed("password=a") == "password=a"


def test_the_longer_of_two_values_is_masked_first() -> None:
    hush("sesame")
    hush("sesame-open")
    assert hushed("sesame-open sesame") == "*** ***"
    speak()
    assert hushed("sesame-open") == "sesame-open"


def test_every_text_within_a_value_is_masked() -> None:
    told = Told(text="password=a", parts=({"password=b": "password=c", "n": 1, "none": None},))
    assert without_passwords(told) == Told(
        text="password=***", parts=({"password=***": "password=***", "n": 1, "none": None},)
    )
