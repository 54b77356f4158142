"""Whether what a server shows is what a parameter group says, however either writes it."""

from __future__ import annotations

import pytest

from planrunner.postgres.headroom import Headroom


def headroom(**settings: str) -> Headroom:
    return Headroom(settings=settings, needs={"max_wal_senders": 4, "max_replication_slots": 2})


@pytest.mark.parametrize(
    ("shown", "wanted", "same"),
    [
        ("8192", "8192", True),
        ("on", "1", True),
        ("off", "1", False),
        ("1.1", "1.10", True),
        ("ISO, MDY", "iso,mdy", True),
        ("128", "{DBInstanceClassMemory/16384}", True),
        ("128", "129", False),
    ],
)
def test_a_setting_is_compared_by_what_it_means(shown: str, wanted: str, same: bool) -> None:
    assert headroom(anything=shown).has("anything", wanted) is same


def test_libraries_that_rds_adds_are_no_difference() -> None:
    found = headroom(shared_preload_libraries="rdsutils,pg_stat_statements")
    assert found.has("shared_preload_libraries", "pg_stat_statements")
    assert not found.has("shared_preload_libraries", "pg_stat_statements,auto_explain")


def test_what_the_server_does_not_show_is_not_missed() -> None:
    assert headroom().has("rds.extensions", "x")


def test_only_limits_that_are_too_low_are_raised() -> None:
    found = headroom(max_wal_senders="2", max_replication_slots="20")
    assert found.raises == {"max_wal_senders": 4}
