"""What is proven before writes are stopped, each a line of the report, and which of it stops the cutover.

A fixed number of queries, however many tables there are, on both servers at once. It is asked once, just before
the fence; ``inside`` asks again what may have changed since, in one query.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner.errors import DifferencesFound, StepFailed
from planrunner.postgres.grants import TO_COME, Grant, Kind
from planrunner.replication import (
    activity,
    census,
    drift,
    fingerprint,
    likeness,
    relations,
    sequences,
    shape,
    troubles,
)
from planrunner.replication.health import observe
from planrunner.replication.likeness import listed
from planrunner.units import human_bytes
from planrunner.verification import Proof

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from planrunner.replication.workspace import Workspace
    from planrunner.verification import Verification

# What stops the cutover, and why the rest only warns. A name that is in neither stops it.
STOPPING: Mapping[str, str] = {
    "rows": "rows would be missing",
    "indexes": "queries would take for ever, and duplicates come in",
    "constraints": "rows could come in that the source refuses",
    "defaults": "what is inserted without a value would have another",
    "triggers": "what they do would not happen any more",
    "rules": "what they do would not happen any more",
    "views": "the application reads them",
    "functions": "the application calls them",
    "types": "values could come in that the source refuses",
    "row security": "rows would be shown to whom they are hidden from",
    "inheritance": "queries of the whole would lack what hangs elsewhere",
    "owners": "the owner's rights would be another's, and migrations of the application fail",
    "grants": "the application would be refused",
    "extensions": "what they bring is missing",
    "sequences": "inserts would collide",
    "prepared transactions": "their locks outlast every attempt to stop writers, and their rows come after",
    "other writers": "what they write makes both sides differ, or is taken for the application's",
    "catalogue": "what changed since the copy is not followed",
    "streams": "what they have not brought can't be waited for",
}
WARNING: Mapping[str, str] = {
    "statistics": "queries are slow until the server has gathered them by itself; ANALYZE mends it meanwhile",
    "long writers": "the fence yields to them and tries again for a while",
    "lag": "told by feedback that is seconds old; the barrier in the fence decides within the budget",
    "headroom": "a sequence near its end is given less, and fails soon on either side",
}
# Not differences of what is there but of the moment: they pass.
_PASSING = frozenset({"prepared transactions", "other writers", "streams"})


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What the plan decided, and how much is too much: ``max_lag`` in bytes, ``long_writer`` in seconds.

    ``roles`` maps the source's roles to the target's where they are called otherwise.
    """

    owners: bool = True
    grants: bool = True
    headroom: int = 100
    max_lag: int = 16 << 20
    long_writer: float = 5.0
    roles: Mapping[str, str] | None = None


def prove(workspace: Workspace, terms: Terms, rows: Verification | None = None) -> tuple[Proof, ...]:
    """Everything that can be proven before writers are stopped; ``rows`` is what comparing them found.

    A query that fails raises; what does not hold is a proof that is not ``equal``, see ``refuse``.
    """
    source, target, names = workspace.source, workspace.target, workspace.names
    omitted = relations.omitted(source, workspace.selection)
    pids = sorted(source.pids | target.pids)
    with ThreadPoolExecutor(2) as pool:
        counts = pool.map(census.read, (source, target))
        ours, theirs = counts
        sending, receiving = sequences.both_sides(source, target, omitted.names)
        there = pool.submit(lambda: (activity.strangers(target, names, pids), activity.statistics(target)))
        here = (
            activity.prepared(source),
            activity.long_writers(source, names, pids, older_than=terms.long_writer),
        )
        strangers, statistics = there.result()
    return (
        *([_rows(rows)] if rows is not None else []),
        *likeness.proofs(ours, theirs, _wish(workspace, terms, omitted)),
        *_sequences(sending, receiving, terms.headroom),
        statistics,
        *here,
        strangers,
        *_streams(workspace, terms.max_lag),
        _catalogue(workspace),
    )


def mark(workspace: Workspace) -> str:
    """The source's catalogue as two numbers, for ``inside``; take it before ``prove``."""
    return f"{shape.digest(workspace.source)} {fingerprint.versions(workspace.source)}"


def inside(
    workspace: Workspace,
    marked: str,
    sending: tuple[sequences.Sequence, ...],
    moved: Collection[sequences.Moved],
) -> tuple[Proof, ...]:
    """What is asked once more while writes stand still, by two queries: the catalogue; and each sequence was carried.

    ``marked`` is the gate's ``mark``, ``sending`` the sequences read in the fence, ``moved`` what carrying returned.
    """
    same = mark(workspace) == marked
    text = (
        "unchanged since the gate"
        if same
        else "a table, or what belongs to one, was made or changed since the gate"
    )
    # Writers go on after this whatever it takes: what differs is asked for only now that the fence comes down.
    detail = () if same else _catalogue(workspace).detail or _defined(workspace)
    lacking = {s.qualified for s in sending} - {m.sequence for m in moved}
    carried = f"{len(moved)} of {len(sending)} carried, {sum(1 for m in moved if m.changed)} moved"
    return (
        Proof(name="catalogue", equal=same, text=text, detail=detail),
        Proof(name="sequences", equal=not lacking, text=carried, detail=listed(lacking)),
    )


def _defined(workspace: Workspace) -> tuple[str, ...]:
    omitted = relations.omitted(workspace.source, workspace.selection)
    return listed(fingerprint.differences(workspace.source, workspace.target, omitted))


def refuse(proofs: Iterable[Proof], *, tolerated: Collection[str] = ()) -> tuple[str, ...]:
    """Raise for everything at once that must stop the cutover; returns the warnings otherwise.

    ``tolerated`` are names of proofs that only warn, by the plan's decision. DifferencesFound where both sides
    differ, StepFailed where only the moment is wrong.
    """
    failed = [proof for proof in proofs if not proof.equal]
    stopping = [p for p in failed if p.name not in WARNING and p.name not in tolerated]
    if not stopping:
        return tuple(_line(proof) for proof in failed)
    lines = "\n  ".join(_line(proof) for proof in stopping)
    message = f"the cutover does not begin, writes were not stopped:\n  {lines}"
    if all(proof.name in _PASSING for proof in stopping):
        raise StepFailed(message, remedy="Wait for them or end them, then run again.")
    raise DifferencesFound(message, remedy="Mend it on the side that lacks it, then run again.")


def _line(proof: Proof) -> str:
    shown = "; ".join(proof.detail[:10])
    more = f"; and {len(proof.detail) - 10} more" if len(proof.detail) > 10 else ""
    return f"{proof.name}: {proof.text}" + (f" ({shown}{more})" if shown else "")


def _rows(found: Verification) -> Proof:
    equal = sum(1 for verdict in found.tables if verdict.equal)
    counted = sum(verdict.source_rows for verdict in found.tables)
    text = f"{equal} of {len(found.tables)} tables equal, {counted} rows, in {found.seconds:.1f} s"
    return Proof(name="rows", equal=found.equal, text=text, detail=listed(found.differences))


def _wish(workspace: Workspace, terms: Terms, omitted: relations.Omitted) -> likeness.Wish:
    made = [Grant.from_detail(detail) for detail in workspace.ledger.effects("grant").values()]
    words = sorted({word for g in made for word in (g.schema, *g.names) if word is not None})
    rows = workspace.source.rows("SELECT w, quote_ident(w) FROM unnest(%s::text[]) w", [words])
    quoted = {str(word): str(shown) for word, shown in rows}
    given = frozenset((_label(g, name, quoted), g.login) for g in made for name in g.names)
    return likeness.Wish(
        owners=terms.owners, grants=terms.grants, omitted=omitted, roles=terms.roles or {}, given=given
    )


def _label(grant: Grant, name: str, quoted: Mapping[str, str]) -> str:
    """What was granted on, in the census's words."""
    if grant.kind in TO_COME:
        what = "tables" if grant.kind is Kind.DEFAULT_TABLE else "sequences"
        return f"default privileges of {name} in schema {grant.schema} for {what}"
    return f"{grant.kind.value} {name if grant.schema is None else f'{quoted[grant.schema]}.{quoted[name]}'}"


def _sequences(
    sending: tuple[sequences.Sequence, ...], receiving: tuple[sequences.Sequence, ...], headroom: int
) -> tuple[Proof, Proof]:
    found = sequences.unequal(sending, receiving)
    ours = {s.qualified for s in sending}
    unsettable = [
        f"sequence {s.qualified}: our login may not set it"
        for s in receiving
        if s.qualified in ours and not s.settable
    ]
    text = f"{len(sending)} sequences, carried with headroom {headroom} when writes stand still"
    alone = sequences.strangers(sending, receiving)
    text += f"; the receiving side's own are left alone: {', '.join(alone[:5])}" if alone else ""
    near = sequences.short(sending, headroom)
    room = (
        f"{len(near)} sequences are too near their end for all of it"
        if near
        else f"{headroom} values for each"
    )
    return (
        Proof(
            name="sequences",
            equal=not found and not unsettable,
            text=text,
            detail=listed([*found, *unsettable]),
        ),
        Proof(name="headroom", equal=not near, text=room, detail=listed(near)),
    )


def _streams(workspace: Workspace, max_lag: int) -> tuple[Proof, ...]:
    if not workspace.streamed:
        return (Proof(name="streams", equal=True, text="none: the source is polled, at last in the pause"),)
    generations = workspace.ledger.generations()
    health = observe(workspace)
    found = [
        *troubles.slot_troubles(workspace, health, generations),
        *troubles.subscription_troubles(workspace, health, generations),
    ]
    idle = [
        f"{s.name}: its worker is not running"
        for s in health.subscriptions.values()
        if s.enabled and s.pid is None
    ]
    text = f"{len(health.slots)} slots, {len(health.subscriptions)} subscriptions"
    detail = listed([*(f"{t.what}. {t.remedy}" for t in found), *idle])
    behind = f"{human_bytes(health.behind)} not confirmed, at most {human_bytes(max_lag)} wished"
    return (
        Proof(name="streams", equal=not detail, text=text, detail=detail),
        Proof(name="lag", equal=health.behind <= max_lag, text=behind),
    )


def _catalogue(workspace: Workspace) -> Proof:
    known = drift.recorded(workspace)
    if known is None:
        return Proof(
            name="catalogue", equal=False, text="no shape of the source is on record: nothing was copied"
        )
    try:
        drift.check(workspace, known, following=workspace.streamed, records=False)
    except StepFailed as error:
        detail = tuple(text for text in (error.message, error.remedy) if text)
        return Proof(
            name="catalogue", equal=False, text="the source's tables changed since the copy", detail=detail
        )
    left = drift.left_behind(workspace)
    if left:
        return Proof(
            name="catalogue",
            equal=False,
            text="the target still has tables that the source dropped after they were copied",
            detail=left,
        )
    return Proof(
        name="catalogue", equal=True, text="the source's tables are as they were copied, or both sides agree"
    )
