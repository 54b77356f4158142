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
CHUNK_BYTES = 64 << 20
MOST_CHUNK_BYTES = 1 << 30


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


def jobs_of(units: Sequence[Unit], *, streams: int, chunks: bool) -> list[Job]:
    """Cut and gather ``units`` into jobs, the largest first, batches of small ones last."""
    small = [unit for unit in units if unit.bytes < SMALL_BYTES]
    large = [unit for unit in units if unit.bytes >= SMALL_BYTES]
    made = [job for unit in large for job in (_chunked(unit, streams) if chunks else [Job(units=(unit,))])]
    made.sort(key=lambda job: (-job.bytes, job.units[0].id, job.chunk.number if job.chunk else 0))
    return made + _batches(small, streams)


def _chunked(unit: Unit, streams: int) -> list[Job]:
    # A range of the key has no pages of its own: the ranges themselves are what streams share.
    size = min(MOST_CHUNK_BYTES, max(CHUNK_BYTES, unit.bytes // (streams * 2)))
    count = 1 if unit.part or streams == 1 else min(-(-unit.bytes // size), max(1, unit.table.pages))
    if count < 2:
        return [Job(units=(unit,))]
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
