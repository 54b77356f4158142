"""What looks like a password is taken out; what does not stays as it is."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from planrunner.masking import masked, without_passwords


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


def test_every_text_within_a_value_is_masked() -> None:
    told = Told(text="password=a", parts=({"password=b": "password=c", "n": 1, "none": None},))
    assert without_passwords(told) == Told(
        text="password=***", parts=({"password=***": "password=***", "n": 1, "none": None},)
    )
