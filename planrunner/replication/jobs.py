"""Jobs of the copy: what one stream does at a time, big units in chunks, small ones in batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.replication.copy import Chunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.replication.units import Unit

SMALL_BYTES = 1 << 20
BATCH_BYTES = 4 << 20
BATCH_UNITS = 25
MOST_CHUNK_BYTES = 1 << 30
# Before 14 a range of pages is answered by reading the whole table.
CHUNKS_SINCE = 140000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one stream does at a time: a batch of small units, a unit, or a chunk of one."""

    units: tuple[Unit, ...]
    chunk: Chunk | None = None

    @property
    def bytes(self) -> int:
        """What there is to copy, estimated."""
        size = sum(unit.bytes for unit in self.units)
        return size // self.chunk.of if self.chunk else size


def jobs_of(
    units: Sequence[Unit], *, streams: int, chunk_above: int, version: int = CHUNKS_SINCE
) -> list[Job]:
    """Cut and gather ``units`` into jobs, the largest first, batches of small ones last.

    Units above ``chunk_above`` bytes are cut, where a source of ``version`` can read pages by their numbers.
    """
    small = [unit for unit in units if unit.bytes < SMALL_BYTES]
    large = [unit for unit in units if unit.bytes >= SMALL_BYTES]
    above = chunk_above if streams > 1 and version >= CHUNKS_SINCE else None
    made = [job for unit in large for job in _chunked(unit, streams, above)]
    made.sort(key=lambda job: (-job.bytes, job.units[0].id, job.chunk.number if job.chunk else 0))
    return made + _batches(small, streams)


def _chunked(unit: Unit, streams: int, above: int | None) -> list[Job]:
    # A range of the key has no pages of its own: the ranges themselves are what streams share.
    if above is None or unit.part or unit.bytes <= above or unit.table.pages < 2:
        return [Job(units=(unit,))]
    size = min(MOST_CHUNK_BYTES, max(above // 4, unit.bytes // (streams * 4), 1))
    count = min(-(-unit.bytes // size), unit.table.pages)
    step = -(-unit.table.pages // count)
    count = -(-unit.table.pages // step)
    return [
        Job(
            units=(unit,),
            chunk=Chunk(number=n, of=count, first=(n - 1) * step, last=n * step if n < count else None),
        )
        for n in range(1, count + 1)
    ]


def _batches(units: Sequence[Unit], streams: int) -> list[Job]:
    most = max(1, min(BATCH_UNITS, -(-len(units) // max(streams, 1))))
    made: list[Job] = []
    batch: list[Unit] = []
    for unit in sorted(units, key=lambda unit: (-unit.bytes, unit.id)):
        if len(batch) == most or sum(u.bytes for u in batch) + unit.bytes > BATCH_BYTES:
            made.append(Job(units=tuple(batch)))
            batch = []
        batch.append(unit)
    return made + ([Job(units=tuple(batch))] if batch else [])
