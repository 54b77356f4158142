"""What is kept while a plan is made, and no longer."""

from __future__ import annotations

import threading
from itertools import count

from planrunner.postgres.memory import Memory


def test_a_reading_stands_to_the_end_of_the_outermost_block_and_no_longer() -> None:
    memory, readings = Memory(), count(1)

    def read() -> int:
        return memory.of("tables", lambda: next(readings))

    assert [read(), read()] == [1, 2]
    with memory.kept():
        assert [read(), read()] == [3, 3]
        with memory.kept():
            assert read() == 3
        assert read() == 3
    assert read() == 4


def test_a_reading_that_failed_is_made_again() -> None:
    memory, readings = Memory(), iter([0, 1])
    with memory.kept():
        for wanted in ("failed", 1.0):
            try:
                got: object = memory.of("tables", lambda: 1 / next(readings))
            except ZeroDivisionError:
                got = "failed"
            assert got == wanted


def test_another_thread_reads_for_itself() -> None:
    memory, readings, seen = Memory(), count(1), list[int]()
    with memory.kept():
        memory.of("tables", lambda: next(readings))
        other = threading.Thread(target=lambda: seen.append(memory.of("tables", lambda: next(readings))))
        other.start()
        other.join()
    assert seen == [2]
