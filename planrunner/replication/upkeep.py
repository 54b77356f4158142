"""What the data plane keeps for itself: the ledger, markers in the streams, and no former runner's sessions."""

from __future__ import annotations

from planrunner.model import Side, Upkeep
from planrunner.postgres import dialler, preflight_line
from planrunner.replication import barrier, ledger
from planrunner.shapes import ANYTHING

_WRITTEN = ("lease", "unit", "chunk", "effect", "proof", "touched")
LEDGER = Upkeep(
    text="writes its ledger: schema planrunner on the target, made if it is missing",
    where=Side.TARGET,
    statements=(
        *ledger.CREATE,
        *(f"{verb} planrunner.{table} …" for verb in ("INSERT INTO", "DELETE FROM") for table in _WRITTEN),
        *(f'{verb} "planrunner"."{table}" …' for verb in ("DELETE FROM",) for table in _WRITTEN),
        "UPDATE planrunner.unit SET …",
        "WITH … INSERT INTO planrunner.…",
    ),
    taken_back=True,
)
SESSIONS = tuple(
    Upkeep(
        text=f"ends what a former runner of this plan left running on the {side.value}",
        where=side,
        statements=(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user"
            " AND application_name LIKE …",
        ),
    )
    for side in (Side.SOURCE, Side.TARGET)
)
_MARKS = tuple(
    statement.as_string().replace('"."…"', '"."barrier_…"')
    for statement in barrier.marking(ANYTHING, ANYTHING)
)
MARKS = Upkeep(
    text="where changes are streamed, writes marker rows into planrunner.barrier_… on the source, to see them arrive on"
    " the target",
    where=Side.SOURCE,
    statements=_MARKS,
    taken_back=True,
)
MARKS_BACK = Upkeep(
    text="where changes are streamed, writes marker rows into planrunner.barrier_… on the target, to see them arrive on"
    " the source",
    where=Side.TARGET,
    statements=_MARKS,
    taken_back=True,
)
DIALS = Upkeep(
    text="where changes are streamed, lets the target dial the source: CREATE SUBSCRIPTION in a transaction that is"
    " rolled back",
    where=Side.TARGET,
    statements=(preflight_line.probing(ANYTHING).as_string(),),
)
DIALS_BACK = Upkeep(
    text="where changes are streamed, lets the source dial the target: CREATE SUBSCRIPTION in a transaction that is"
    " rolled back",
    where=Side.SOURCE,
    statements=(preflight_line.probing(ANYTHING).as_string(),),
)
LOGIN = Upkeep(
    text="lets the role by which the subscription logs in be valid for longer, once half of its time is over",
    where=Side.SOURCE,
    statements=(dialler.renewing(f"pr_{ANYTHING}_login", until=ANYTHING).as_string(),),
)
# What every step has that changes something.
OWN = (LEDGER, *SESSIONS)
