"""The transactions of the shop's application, each with the trace it must have left on the server."""

from __future__ import annotations

import itertools
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, LiteralString, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import psycopg

Session: TypeAlias = "psycopg.Connection[tuple[Any, ...]]"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What one row must look like: ``payload`` is its text, None when the row is gone.

    ``before`` is what it was before the application ever wrote it.
    """

    table: str
    key: str
    payload: str | None
    before: str | None = None


# Each query returns (key, payload) of the rows of its table whose keys it is given.
TRACES: Mapping[str, LiteralString] = {
    "orders": (
        "SELECT o.note, o.total || '/' || count(i.*) FROM public.orders o"
        ' LEFT JOIN public."Order Items" i ON i."Order" = o.id'
        " WHERE o.note = ANY(%s) GROUP BY o.id, o.note, o.total"
    ),
    "events": "SELECT id::text, payload->>'mark' FROM public.events WHERE id = ANY(%s::bigint[])",
    "customers": "SELECT id::text, profile->>'visits' FROM public.customers WHERE id = ANY(%s::bigint[])",
    # Without a key nothing else would notice a row that was applied twice.
    "audit_log": (
        "SELECT who, min(what->>'mark') || CASE WHEN count(*) > 1 THEN ' more than once' ELSE '' END"
        " FROM public.audit_log WHERE who = ANY(%s) GROUP BY who"
    ),
    'we"ird': 'SELECT "sel ect", "%%s" FROM public."we""ird" WHERE "sel ect" = ANY(%s)',
}


class Application:
    """Makes the transactions of one of ``many`` threads; no two threads write the same row.

    ``tag`` is what tells this writer's rows from those of one before it.

    Every method executes its statements in the caller's open transaction and returns their traces.
    """

    def __init__(self, number: int, many: int, *, tag: int) -> None:
        self._number = number
        self._many = many
        self._tag = tag
        self._serial = itertools.count()
        self._events: dict[int, str] = {}
        self._visits = 0
        # The mix is the same in every run; chance has no part in what is tested.
        self._chooser = random.Random(number)  # noqa: S311
        self._kinds: tuple[Callable[[Session], list[Trace]], ...] = (
            self.place_order,
            self.place_order,
            self.record_event,
            self.record_event,
            self.change_event,
            self.drop_event,
            self.note,
            self.visit,
            self.rename,
        )

    def transaction(self, session: Session) -> list[Trace]:
        """One transaction of the mix, not yet committed."""
        return self._chooser.choice(self._kinds)(session)

    def place_order(self, session: Session) -> list[Trace]:
        """An order with its lines; the trigger notes it in the key-less table."""
        mark, lines = self._mark(), self._chooser.randint(1, 4)
        row = session.execute(
            "INSERT INTO public.orders (customer_id, total, note) VALUES (%s, %s, %s) RETURNING id",
            (self._customer(), lines * 10, mark),
        ).fetchone()
        assert row is not None
        session.execute(
            'INSERT INTO public."Order Items" SELECT %s, n, (SELECT min(id) FROM public.products), n, 10'
            " FROM generate_series(1, %s) n",
            (row[0], lines),
        )
        return [Trace(table="orders", key=mark, payload=f"{lines * 10}.00/{lines}")]

    def record_event(self, session: Session) -> list[Trace]:
        """A new row in one of the partitions."""
        event = (self._tag + 1) * 1_000_000_000 + next(self._serial) * self._many + self._number
        mark, day = self._mark(), self._day()
        session.execute(
            "INSERT INTO public.events VALUES (%s, %s, 'written', %s)",
            (event, day, json.dumps({"mark": mark})),
        )
        self._events[event] = mark
        return [Trace(table="events", key=str(event), payload=mark)]

    def change_event(self, session: Session) -> list[Trace]:
        """An update that may move the row to another partition."""
        event, mark = self._any_event(), self._mark()
        changed = session.execute(
            "UPDATE public.events SET happened_on = %s, payload = jsonb_set(payload, '{mark}', %s)"
            " WHERE id = %s",
            (self._day(), json.dumps(mark), event),
        )
        return [Trace(table="events", key=str(event), payload=mark)] if changed.rowcount else []

    def drop_event(self, session: Session) -> list[Trace]:
        """A delete of a row that was written before."""
        event = self._any_event()
        session.execute("DELETE FROM public.events WHERE id = %s", (event,))
        self._events.pop(event, None)
        return [Trace(table="events", key=str(event), payload=None)] if event else []

    def note(self, session: Session) -> list[Trace]:
        """A row in the table without a primary key."""
        mark = self._mark()
        session.execute(
            "INSERT INTO public.audit_log (who, what) VALUES (%s, %s)", (mark, json.dumps({"mark": mark}))
        )
        return [Trace(table="audit_log", key=mark, payload=mark)]

    def visit(self, session: Session) -> list[Trace]:
        """A small change inside a jsonb document."""
        customer = self._customer()
        self._visits += 1
        visits = f"{self._tag}.{self._number}.{self._visits}"
        row = session.execute(
            "SELECT profile->>'visits' FROM public.customers WHERE id = %s", (customer,)
        ).fetchone()
        before: str | None = row[0] if row else None
        session.execute(
            "UPDATE public.customers SET profile = jsonb_set(profile, '{visits}', %s) WHERE id = %s",
            (json.dumps(visits), customer),
        )
        return [Trace(table="customers", key=str(customer), payload=visits, before=before)]

    def rename(self, session: Session) -> list[Trace]:
        """A changed value, now and then a changed key, in the table of hostile names."""
        old, mark = f"w{self._tag:x}-{self._number}", self._mark()
        new = f"{mark} \\ ' \" ☃"
        session.execute('DELETE FROM public."we""ird" WHERE "sel ect" = %s', (old,))
        session.execute('INSERT INTO public."we""ird" VALUES (%s, %s, NULL)', (old, mark))
        session.execute('UPDATE public."we""ird" SET "sel ect" = %s WHERE "sel ect" = %s', (new, old))
        return [Trace(table='we"ird', key=new, payload=mark), Trace(table='we"ird', key=old, payload=None)]

    def _mark(self) -> str:
        return f"w{self._tag:x}-{self._number}-{next(self._serial)}"

    def _customer(self) -> int:
        return 1 + self._chooser.randrange(100 // self._many) * self._many + self._number

    def _any_event(self) -> int:
        return self._chooser.choice(list(self._events)) if self._events else 0

    def _day(self) -> str:
        return f"2024-{self._chooser.randint(1, 8):02d}-{self._chooser.randint(1, 28):02d}"
