"""Which transactions a statement saw: the server's own snapshot, as ``txid_current_snapshot()`` tells it."""

from __future__ import annotations

from dataclasses import dataclass

_EPOCH = 1 << 32


@dataclass(frozen=True, kw_only=True)
class Visible:
    """All before ``xmin`` were seen, none from ``xmax`` on, and of those between none that were ``running``."""

    xmin: int
    xmax: int
    running: frozenset[int]

    @classmethod
    def of(cls, text: str) -> Visible:
        """Read the server's form, ``xmin:xmax:running,running``."""
        xmin, xmax, running = text.split(":")
        return cls(xmin=int(xmin), xmax=int(xmax), running=frozenset(int(x) for x in running.split(",") if x))

    def __str__(self) -> str:
        return f"{self.xmin}:{self.xmax}:{','.join(map(str, sorted(self.running)))}"

    def saw(self, xid: int) -> bool:
        """Whether transaction ``xid`` (32 bits, as streams tell it), once committed, was seen."""
        # Within half the numbers' circle of the snapshot: the slot keeps no WAL as old as the other half.
        full = self.xmax - ((self.xmax - xid) % _EPOCH)
        if self.xmax - full > _EPOCH // 2:
            full += _EPOCH
        return full < self.xmax and full not in self.running

    @property
    def age(self) -> tuple[int, int, int]:
        """Sorts the snapshots of one server: what an earlier one saw, a later one sees too."""
        return (self.xmax, self.xmin, -len(self.running))


NOTHING = Visible(xmin=0, xmax=0, running=frozenset())
