"""Rows of nearly 1 GB, which is as long as PostgreSQL can send one, and rows that it stores and can't send."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.scene import migration, servers
from tests.faults.strangers import STEADY, execute, flat, rows
from tests.faults.test_resources import MEGABYTE, moved, watched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.test_resources import Figure, Pair

# Some GB of memory and of disk, and minutes.
pytestmark = [pytest.mark.server, pytest.mark.soak, pytest.mark.timeout(3600)]

# A message takes no more than 2^30 - 1 bytes: the value, and some bytes of what is around it.
LONGEST_BYTES = (1 << 30) - 128
HALF_BYTES = 600 * MEGABYTE
UNHURRIED = "{write_pause_budget: 600s}"
TEXTS = (
    STEADY + "CREATE TABLE texts (id int PRIMARY KEY, note text, a text, b text);"
    "ALTER TABLE texts ALTER a SET STORAGE EXTERNAL, ALTER b SET STORAGE EXTERNAL;"
    "INSERT INTO texts VALUES (1, 'short', 'a', 'b');"
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with servers() as both:
        yield both


def test_a_row_of_nearly_a_gigabyte_is_copied_followed_compared_and_cut_over(
    pair: Pair, tmp_path: Path, record_property: Figure
) -> None:
    with migration(pair, tmp_path, "longest", TEXTS, over=UNHURRIED) as one:
        execute(one.ours, f"INSERT INTO texts VALUES (2, 'copied', repeat('x', {LONGEST_BYTES}))")
        plain = watched(one, "run", "--until", "copy")
        assert plain.code == 0, plain.said
        execute(
            one.ours,
            f"INSERT INTO texts VALUES (3, 'followed', repeat('y', {LONGEST_BYTES}))",
            "UPDATE texts SET note = 'changed' WHERE id = 2",
        )
        use = moved(one)
        record_property(
            "figure",
            f"rows of {LONGEST_BYTES} bytes: {plain.memory >> 20} MB for the copy, {use.memory >> 20} MB after it",
        )
        asked = "SELECT id, note, length(a), md5(a) FROM texts ORDER BY id"
        assert rows(one.ours, asked) == rows(one.theirs, asked)
        assert one.left() == []
        # Blocks travel from psql to the target's session; no row is held.
        assert max(plain.memory, use.memory) < 150 * MEGABYTE, (plain, use)


def test_a_row_that_can_be_stored_and_not_sent_is_named_by_the_copy(pair: Pair, tmp_path: Path) -> None:
    with migration(pair, tmp_path, "unsendable", TEXTS, over=UNHURRIED) as one:
        # At once it could not even be stored.
        execute(
            one.ours,
            f"INSERT INTO texts VALUES (7, 'long', repeat('x', {HALF_BYTES}))",
            f"UPDATE texts SET b = repeat('y', {HALF_BYTES}) WHERE id = 7",
        )
        code, said = one.run("run")
        assert code == 1, said
        assert "Traceback" not in said, said
        assert "public.texts" in flat(said), said
        assert "1 GB" in flat(said), said
        execute(one.ours, "DELETE FROM texts WHERE id = 7")
        one.succeeds("run")
        one.assert_moved()
