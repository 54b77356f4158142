"""LSNs: read, printed, compared and subtracted as PostgreSQL does."""

from __future__ import annotations

import pytest

from planrunner.postgres.lsn import Lsn


@pytest.mark.parametrize("text", ["0/0", "0/16B3748", "FFFFFFFF/FFFFFFFF", "1/0"])
def test_an_lsn_prints_as_it_was_read(text: str) -> None:
    assert str(Lsn.parse(text)) == text


@pytest.mark.parametrize("text", ["", "0", "0/", "/0", "0/123456789", "g/0", "0/0 ", "0/0\n", "-1/0"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an LSN"):
        Lsn.parse(text)


def test_the_difference_of_two_is_in_bytes() -> None:
    assert Lsn.parse("1/10") - Lsn.parse("0/FFFFFFF0") == 0x20
    assert Lsn.parse("0/FFFFFFF0") < Lsn.parse("1/0")
