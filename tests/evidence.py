"""A migration with everything in it, for tests of the report: killed once, approved days later, reversible."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planrunner.engine.events import Event, EventKind
from planrunner.engine.files import run_files
from planrunner.engine.report import build_report
from planrunner.model import Endpoint, Plan, Side, StepSpec, StepStatus
from planrunner.state.record import ApprovalRecord, State, StepState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planrunner.engine.report_model import Report

START = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
STEPS = {
    "logical": "enable_logical",
    "grant": "grant",
    "check": "validate",
    "copy": "snapshot",
    "follow": "sync",
    "cutover": "cutover_verify",
}
MB = 1 << 20


def after(**passed: float) -> datetime:
    return START + timedelta(**passed)


def plan(folder: Path, **options: Any) -> Plan:
    """A plan of all six steps; ``options`` are the cutover's."""
    return Plan(
        name="orders",
        path=folder / "orders.yaml",
        digest="0d" * 32,
        source=Endpoint(side=Side.SOURCE, dsn="postgresql://migrator@old.example.com/app"),
        target=Endpoint(side=Side.TARGET, dsn="postgresql://migrator@new.example.com/app"),
        steps=tuple(
            StepSpec(id=step, uses=uses, digest=step, options=options if step == "cutover" else {})
            for step, uses in STEPS.items()
        ),
    )


def done(step: str, *, attempts: int = 1, **progress: Any) -> StepState:
    return StepState(
        uses=STEPS[step],
        status=StepStatus.DONE,
        digest=step,
        started=START,
        finished=after(days=3, seconds=20),
        worked=12.5,
        attempts=attempts,
        progress=progress,
    )


def cutover(**changed: Any) -> dict[str, Any]:
    """What the cutover's step tells."""
    tables = [
        {"table": f"public.part_{n:02d}", "rows": 1_000_000 + n, "equal": True, "how": HOW[n % 2]}
        for n in range(12)
    ]
    parts = {"fence": 13.0, "commit": 0.9, "barrier": 8.1, "sequences": 11.0, "verification": 90.5}
    figures: dict[str, Any] = {
        "pause": {"total_ms": 143.2, "parts_ms": parts, "at": "2026-11-27T09:00:20Z"},
        "rehearsals": [{"at": "2026-11-26T09:00:00Z", "total_ms": 171.0, "parts_ms": parts}],
        "verification": {
            "equal": True,
            "rows": 12_000_066,
            "seconds": 0.09,
            "tables": tables,
            "sequences": 2,
        },
        "proofs": [
            {"name": "indexes", "equal": True, "text": "31 on both sides, all valid"},
            {"name": "constraints", "equal": True, "text": "18 on both sides, all validated"},
            {"name": "owners", "equal": True, "text": "the same of 44 relations", "stops": True},
            {"name": "lag", "equal": False, "text": "20 MB", "detail": ["it falls"], "stops": False},
        ],
        "sequence_values": [
            {"sequence": "public.orders_id_seq", "source": 1_204_331, "target": 1_204_431},
            {"sequence": "public.lines_id_seq", "source": -20, "target": -120, "headroom": 100},
        ],
        "reverse": {"stream": "pr_00aa11bb_r1", "lag_bytes": 2048, "retained_bytes": 4 * MB},
        "switch": [
            {"name": "pgbouncer", "phase": "before_fence", "seconds": 0.05},
            {"name": "pgbouncer", "phase": "after_commit", "seconds": 0.051},
        ],
        "decisions": ["roles without password: shop_app"],
    }
    return {name: value for name, value in (figures | changed).items() if value is not None}


HOW = ("digest inside the pause", "digest while it followed, unchanged since")


def state(**changed: Any) -> State:
    """The state of the whole migration; ``changed`` are figures of the cutover, None takes one out."""
    steps = {step: done(step) for step in STEPS}
    steps["copy"] = done("copy", attempts=2, tables=12, rows=12_000_000, bytes=1100 * MB)
    steps["follow"] = done("follow", lag_bytes=4096, retained_bytes=5 * MB)
    steps["cutover"] = done("cutover", **cutover(**changed))
    server = {
        "version": "15.20",
        "database": "app",
        "user": "migrator",
        "port": "5432",
        "sslmode": "verify-full",
    }
    return State(
        lineage="7c0f2e3a-0000-4000-8000-000000000001",
        plan="orders",
        plan_digest="0d" * 32,
        serial=41,
        plan_id="00aa11bb",
        steps=steps,
        approvals=(
            ApprovalRecord(
                step="cutover",
                action="step",
                digest="cutover",
                who="ada@ops-1",
                when=after(days=3),
                why="the quiet hour; change 4711",
            ),
        ),
        facts={
            "source": "7711/app",
            "target": "7722/app",
            "servers": {
                "source": {**server, "host": "orders-prod.abc.eu-west-1.rds.amazonaws.com"},
                "target": {**server, "version": "18.4", "host": "new.example.com"},
            },
        },
    )


class Diary:
    """Events in a row, each a given time after the start."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def add(
        self, kind: EventKind, at: datetime, step: str | None = None, message: str = "", **told: Any
    ) -> None:
        serial = len(self.events) + 1
        self.events.append(Event(serial=serial, at=at, kind=kind, step=step, message=message, fields=told))

    def step(self, step: str, began: datetime, seconds: float, kind: EventKind = EventKind.STEP_DONE) -> None:
        self.add(EventKind.STEP_STARTED, began, step)
        self.add(kind, began + timedelta(seconds=seconds), step)


def events() -> Sequence[Event]:
    """Three runs: one killed in the copy, one that copies and follows, and days later the cutover."""
    diary = Diary()
    diary.add(EventKind.RUN_STARTED, START)
    for place, step in enumerate(("logical", "grant", "check")):
        diary.step(step, after(seconds=place * 8), 7)
    diary.add(EventKind.STEP_STARTED, after(seconds=25), "copy")
    for place in range(12):
        _sample(diary, after(seconds=35 + 10 * place), place)
    diary.add(EventKind.RUN_STARTED, after(seconds=200))
    diary.add(EventKind.STEP_STARTED, after(seconds=201), "copy")
    for place in range(20):
        _sample(diary, after(seconds=211 + 10 * place), place)
    diary.add(EventKind.STEP_DONE, after(seconds=405), "copy")
    diary.add(EventKind.STEP_STARTED, after(seconds=405), "follow")
    for place in range(12):
        behind = int(200 * MB * 0.6**place)
        diary.add(
            EventKind.NEWS,
            after(seconds=410 + 5 * place),
            "follow",
            "waiting for the target",
            lag_bytes=behind,
            retained_bytes=behind + 30 * MB,
        )
    diary.add(EventKind.STEP_DONE, after(seconds=470), "follow", lag_bytes=4096, retained_bytes=5 * MB)
    diary.step("cutover", after(seconds=470), 0.5, EventKind.STEP_WAITING)
    diary.add(EventKind.RUN_ENDED, after(seconds=471))
    diary.add(EventKind.RUN_STARTED, after(days=3))
    diary.add(EventKind.WARNING, after(days=3, seconds=1), "cutover", "the slot keeps much WAL")
    diary.step("cutover", after(days=3, seconds=1), 19)
    diary.add(EventKind.RUN_ENDED, after(days=3, seconds=20))
    return diary.events


def _sample(diary: Diary, at: datetime, place: int) -> None:
    moved = (30 + 8 * (place % 5)) * 10 * MB
    behind = (10 + 9 * place) * MB
    diary.add(
        EventKind.NEWS,
        at,
        "copy",
        "copying",
        moved_bytes=moved,
        seconds=10.0,
        lag_bytes=behind,
        retained_bytes=behind,
    )


def report(
    folder: Path = Path("plans"), *, known: State | None = None, told: Sequence[Event] | None = None
) -> Report:
    """The report of the whole migration, or of another state or journal."""
    own = plan(folder)
    return build_report(
        own,
        known or state(),
        events() if told is None else told,
        run_files(own.path),
        flags=("--var=region=eu-west-1",),
    )
