"""Whether the world is still what a saved preview saw, and the difference in words where it is not."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from planrunner.engine.looking import View
from planrunner.engine.preview import preview
from planrunner.engine.saved_preview import AGAIN, Saved, saved, world_seen
from planrunner.errors import PreviewStale, UsageError
from planrunner.shapes import read
from planrunner.step import Held

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from planrunner.engine.context import Context
    from planrunner.model import Json, Plan
    from planrunner.state.record import State
    from planrunner.step import Step

_MOST = 20
# What may differ without anybody minding: places in the WAL, and the instant at which a time window would begin.
_PLACES = re.compile(r"'[0-9A-F]{1,8}/[0-9A-F]{1,8}'")
_INSTANTS = re.compile(r"'\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:\.\d+)?(?:[+-]\d\d(?::?\d\d)?|Z)?'")
# Whatever lost snapshots add to the number of generations, what is done with each is the same.
_GENERATIONS = re.compile(
    r"\b((?:pr_[0-9a-f]{8}_g)|(?:(?:barrier|stop|truncate)_[0-9a-f]{8}_)|subscribe |clear )\w+\b"
)
_NUMBERS = re.compile(r"\d+")
_FACTS = ("where", "verdict", "locks", "needs", "undo", "asks", "blocked", "restarts", "observable")


def refuse_stale(
    expected: Saved, plan: Plan, state: State, context: Context, find: Callable[[str], Step]
) -> None:
    """Look at everything again; PreviewStale with every difference, PlanrunnerError as a preview. Changes nothing."""
    # What is held by the steps meanwhile is not the run's: it would keep telling its news to nobody.
    held = Held()
    try:
        view = View(plan=plan, state=state, context=replace(context, held=held), find=find, tell=_unheard)
        now = saved(preview(view, estimating=False), plan, state, world_seen(context.world))
    finally:
        held.close()
    found = compared(expected, now)
    if found:
        more = [f"and {len(found) - _MOST} more"] if len(found) > _MOST else []
        raise PreviewStale(
            "the world has changed since the preview was saved; nothing was done:\n  "
            + "\n  ".join([*found[:_MOST], *more]),
            remedy="Look at a new preview, and have it approved: planrunner preview PLAN --out FILE.",
        )


def compared(expected: Saved, now: Saved) -> tuple[str, ...]:
    """The differences; UsageError where the saved preview holds what no preview does."""
    try:
        return tuple(differences(expected, now))
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"the saved preview is damaged: {what[:200]}", remedy=AGAIN) from error


def differences(expected: Saved, now: Saved) -> Iterator[str]:
    """What is not as expected, a line each; of steps that a run has begun since, only what is left of them."""
    yield from _plan(expected, now)
    begun = moved(expected, now)
    for side in ("source", "target"):
        yield from _server(side, expected.seen.get(side), now.seen.get(side), begun=begun)
    if not begun:
        yield from _facts("RDS instance", expected.seen.get("rds") or {}, now.seen.get("rds") or {})
    before = {step["id"]: step for step in expected.steps}
    for step in now.steps:
        if step["id"] in before:
            yield from _step(before[step["id"]], step, begun=begun)


def moved(expected: Saved, now: Saved) -> bool:
    """True when a run has worked since: then what it did itself is no difference."""
    worked = any(step["status"] == "done" or step["begun"] for step in now.steps)
    return worked and expected.state != now.state


def _plan(expected: Saved, now: Saved) -> Iterator[str]:
    if expected.plan["name"] != now.plan["name"]:
        yield f"the preview is of plan {expected.plan['name']!r}, this is {now.plan['name']!r}"
    elif expected.plan["digest"] != now.plan["digest"]:
        yield f"the plan was edited: its digest was {expected.plan['digest'][:12]}, it is {now.plan['digest'][:12]}"
    if expected.plan["id"] != now.plan["id"]:
        yield f"the plan id was {expected.plan['id']}, it is {now.plan['id']}: it works on other databases"
    if expected.state and now.state and expected.state["lineage"] != now.state["lineage"]:
        yield f"the state is of another migration: lineage {expected.state['lineage']}, now {now.state['lineage']}"


def _server(
    side: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None, *, begun: bool
) -> Iterator[str]:
    if before is None or now is None:
        if not begun and before is not now:
            yield f"{side}: it {'answered' if before else 'did not answer'}, now it {'does' if now else 'does not'}"
        return
    identity = ("version", "system_identifier", "database", "user", "in_recovery")
    yield from _facts(side, {k: before.get(k) for k in identity}, {k: now.get(k) for k in identity})
    if not begun:
        yield from _facts(f"{side}: parameter", before["parameters"], now["parameters"])
    if side == "source" or not begun:
        yield from _catalogue(side, before, now)


def _facts(what: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield f"{what} {name} was {_told(before.get(name))}, it is {_told(now.get(name))}"


def _told(value: Json) -> str:
    return "not there" if value is None else str(value)


def _catalogue(side: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if before["catalogue"] == now["catalogue"]:
        return
    was, is_ = before["tables"], now["tables"]
    for table in sorted(is_.keys() - was.keys()):
        yield f"{side}: table {table} is new"
    for table in sorted(was.keys() - is_.keys()):
        yield f"{side}: table {table} is gone"
    for table in sorted(t for t in was.keys() & is_.keys() if was[t] != is_[t]):
        yield f"{side}: table {table} has changed (columns, indexes, constraints or triggers)"
    # A relation that is a table was told above.
    for line in sorted(set(now["others"]) - set(before["others"])):
        if line.removeprefix("relation ") not in is_:
            yield f"{side}: {line} is new"
    for line in sorted(set(before["others"]) - set(now["others"])):
        if line.removeprefix("relation ") not in was:
            yield f"{side}: {line} is gone"


def _step(before: Mapping[str, Any], now: Mapping[str, Any], *, begun: bool) -> Iterator[str]:
    name = f"step {now['id']}"
    if now["status"] == "done":
        return
    if before["status"] == "done":
        yield f"{name} was done, now it is to be done again"
    if now["problem"] and now["problem"] != before["problem"]:
        yield f"{name} can't be planned: {now['problem'].splitlines()[0]}"
    half = begun and now["begun"]
    yield from (f"{name}: check fails: {text}" for text in _failing(now) if text not in _failing(before))
    yield from _actions(name, before["actions"], now["actions"], half=half, begun=begun)


def _failing(step: Mapping[str, Any]) -> list[str]:
    return [
        _NUMBERS.sub("…", finding["text"])
        for finding in step["findings"]
        if finding["mark"] == "fail" and finding["mended_by_step"] is None and not finding.get("ignored")
    ]


def _actions(
    step: str,
    before: Sequence[Mapping[str, Any]],
    now: Sequence[Mapping[str, Any]],
    *,
    half: bool,
    begun: bool,
) -> Iterator[str]:
    """The actions that are more, fewer or others; of a half-done step (``half``) only what is more."""
    was, is_ = _named(before, begun=begun), _named(now, begun=begun)
    for name in (n for n in is_ if n not in was and not (begun and is_[n]["recovery"])):
        yield f"{step}: an action more: {is_[name]['summary']}"
    if half:
        return
    for name in (n for n in was if n not in is_):
        yield f"{step}: an action less: {was[name]['summary']}"
    for name in (n for n in is_ if n in was):
        yield from _action(f"{step}, {name}", was[name], is_[name], begun=begun)


def _named(actions: Sequence[Mapping[str, Any]], *, begun: bool) -> dict[str, Mapping[str, Any]]:
    """The actions by name; of several generations the first, which also does what all of them need once."""
    found: dict[str, Mapping[str, Any]] = {}
    for action in actions:
        found.setdefault(_settled(action["name"], begun=begun), action)
    return found


def _action(what: str, before: Mapping[str, Any], now: Mapping[str, Any], *, begun: bool) -> Iterator[str]:
    for fact in _FACTS:
        if before.get(fact) != now.get(fact) and not (begun and fact == "verdict"):
            yield f"{what}: {fact} was {_told(before.get(fact))}, it is {_told(now.get(fact))}"
    was, is_ = _statements(before, begun=begun), _statements(now, begun=begun)
    for statement in (s for s in is_ if s not in was):
        yield f"{what}: a statement more: {_short(statement)}"
    for statement in (s for s in was if s not in is_):
        yield f"{what}: a statement less: {_short(statement)}"


def _statements(action: Mapping[str, Any], *, begun: bool) -> dict[str, None]:
    shapes = (read(statement) for statement in action["statements"])
    return dict.fromkeys(_settled(shape.text, begun=begun) for shape in shapes if shape is not None)


def _settled(text: str, *, begun: bool) -> str:
    """The text without what may differ; once a run has begun, without the numbers of generations."""
    text = _INSTANTS.sub("'…'", _PLACES.sub("'…'", text))
    return _GENERATIONS.sub(r"\1…", text) if begun else text


def _short(statement: str) -> str:
    line = " ".join(statement.split())
    return line if len(line) <= 160 else f"{line[:160]}…"


def _unheard(_message: str, _fields: Mapping[str, Json]) -> None:
    pass
