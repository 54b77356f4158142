"""DescribeEvents as RDS answers it, page by page: moto tells of no reboot."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_MINUTES = 60
_KEPT = timedelta(days=14)
_PAGE = 100
SHUTDOWN = "DB instance shutdown"
RESTARTED = "DB instance restarted"


@dataclass(frozen=True, kw_only=True)
class Noted:
    """An event of an instance."""

    at: datetime
    instance: str
    message: str
    category: str = "availability"


class Events:
    """The events of a region's instances: what the stand-in notes of its own reboots, and what a test plants.

    ``page`` is the most that one answer holds, whatever is asked for.
    """

    def __init__(self, page: int = _PAGE) -> None:
        self.page = page
        self._noted: list[Noted] = []
        self._lock = threading.Lock()

    @property
    def noted(self) -> tuple[Noted, ...]:
        """Every event, in the order in which it was noted."""
        with self._lock:
            return tuple(self._noted)

    def note(self, instance: str, message: str, at: datetime | None = None) -> None:
        """Note an event, now or at another time."""
        with self._lock:
            self._noted.append(Noted(at=at or datetime.now(UTC), instance=instance, message=message))

    def described(self, params: Mapping[str, str], xmlns: str) -> str:
        """The answer to DescribeEvents: what the parameters ask for, from ``Marker`` on."""
        since = datetime.now(UTC) - min(_asked_for(params), _KEPT)
        wanted = params.get("SourceIdentifier")
        with self._lock:
            found = sorted(
                (e for e in self._noted if e.at >= since and wanted in {None, e.instance}),
                key=lambda event: event.at,
            )
        first = int(params.get("Marker", "0"))
        last = first + min(self.page, int(params.get("MaxRecords", str(_PAGE))))
        marker = f"<Marker>{last}</Marker>" if last < len(found) else ""
        listed = "".join(map(_told, found[first:last]))
        return (
            f"<DescribeEventsResponse {xmlns}><DescribeEventsResult>{marker}<Events>{listed}</Events>"
            "</DescribeEventsResult></DescribeEventsResponse>"
        )


def _asked_for(params: Mapping[str, str]) -> timedelta:
    return timedelta(minutes=int(params.get("Duration", str(_DEFAULT_MINUTES))))


def _told(event: Noted) -> str:
    return (
        f"<Event><SourceIdentifier>{escape(event.instance)}</SourceIdentifier><SourceType>db-instance</SourceType>"
        f"<Message>{escape(event.message)}</Message><EventCategories><EventCategory>{escape(event.category)}"
        f"</EventCategory></EventCategories><Date>{event.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}</Date></Event>"
    )
