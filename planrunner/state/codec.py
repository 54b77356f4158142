"""Turns a State into JSON text and back, and refuses whatever is not exactly that."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, cast

from planrunner.errors import StateUnfit
from planrunner.masking import without_hushed
from planrunner.model import StepStatus
from planrunner.shown import visible
from planrunner.state.record import FORMAT_VERSION, ApprovalRecord, MarkRecord, State, StepState
from planrunner.state.upgrade import upgraded

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")
_CHECKSUM = "checksum"
_CHECKED_SINCE = 3


def to_json(state: State) -> str:
    """The state as indented JSON with a final newline, and with a checksum over everything that it says."""
    tree = cast("dict[str, object]", _plain(state))
    summed = {**tree, _CHECKSUM: _checksum(tree)}
    return visible(json.dumps(summed, indent=2, ensure_ascii=False, allow_nan=False)) + "\n"


def from_json(text: str) -> State:
    """Read what ``to_json`` wrote, now or in an older format; StateUnfit for a newer one and for anything else.

    A single digit that was changed, by a disk or by hand, is noticed by the checksum.
    """
    try:
        tree = json.loads(text)
        _check_version(tree)
        _check_sum(tree)
        return _state(upgraded(tree))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StateUnfit(f"it is damaged: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]} is missing"
    return str(error) or type(error).__name__


def _plain(value: object) -> object:
    if isinstance(value, State | StepState | ApprovalRecord | MarkRecord):
        return {f.name: _kept(f.name, _plain(getattr(value, f.name))) for f in fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, StepStatus):
        return value.value
    if isinstance(value, dict):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(member) for member in value]
    return value


def _kept(name: str, value: object) -> object:
    # Ids and digests are compared later and must stay; all else is told to people.
    if name == "facts" and isinstance(value, dict):
        return {fact: without_hushed(told) if fact == "servers" else told for fact, told in value.items()}
    return without_hushed(value) if name in {"progress", "error", "why", "who"} else value


def _check_version(tree: object) -> None:
    found = _of(dict, tree, "the file")["format_version"]
    version = _of(int, found, "format_version")
    if version > FORMAT_VERSION:
        raise StateUnfit(
            f"it has format version {version}, and this planrunner knows up to {FORMAT_VERSION}",
            remedy="Use the planrunner that wrote it, or a newer one.",
        )
    if version < 1:
        raise ValueError(f"format_version {version} never was")


def _checksum(tree: Mapping[str, object]) -> str:
    # Of what it says and not of how it is laid out: a formatter does no harm.
    text = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _check_sum(tree: dict[str, Any]) -> None:
    if tree["format_version"] < _CHECKED_SINCE:
        return
    told = _of(str, tree.pop(_CHECKSUM), _CHECKSUM)
    if told != _checksum(tree):
        raise ValueError(
            "its checksum does not fit what it says; whoever wants to correct a step uses planrunner state mark"
        )


def _state(tree: Mapping[str, Any]) -> State:
    _exactly(tree, State)
    steps = _of(dict, tree["steps"], "steps")
    return State(
        # Whatever it was written as, it is kept as what this planrunner writes.
        format_version=FORMAT_VERSION,
        lineage=_of(str, tree["lineage"], "lineage"),
        serial=_of(int, tree["serial"], "serial"),
        plan=_of(str, tree["plan"], "plan"),
        plan_id=_optional(str, tree["plan_id"], "plan_id"),
        plan_digest=_of(str, tree["plan_digest"], "plan_digest"),
        steps={step_id: _step(step) for step_id, step in steps.items()},
        approvals=tuple(_approval(a) for a in _of(list, tree["approvals"], "approvals")),
        marks=tuple(_mark(m) for m in _of(list, tree["marks"], "marks")),
        facts=_of(dict, tree["facts"], "facts"),
    )


def _step(tree: object) -> StepState:
    step = _of(dict, tree, "step")
    _exactly(step, StepState)
    return StepState(
        uses=_of(str, step["uses"], "uses"),
        status=StepStatus(step["status"]),
        digest=_of(str, step["digest"], "digest"),
        parts=_of(dict, step["parts"], "parts"),
        values=_of(dict, step["values"], "values"),
        started=_time(step["started"]),
        resumed=_time(step["resumed"]),
        finished=_time(step["finished"]),
        worked=_of(float, step["worked"], "worked"),
        attempts=_of(int, step["attempts"], "attempts"),
        progress=_of(dict, step["progress"], "progress"),
        error=_optional(str, step["error"], "error"),
        touched=_of(bool, step["touched"], "touched"),
        intent=_optional(str, step["intent"], "intent"),
        performed=tuple(_of(str, name, "performed") for name in _of(list, step["performed"], "performed")),
    )


def _approval(tree: object) -> ApprovalRecord:
    given = _of(dict, tree, "approval")
    _exactly(given, ApprovalRecord)
    texts = {name: _of(str, given[name], name) for name in ("step", "action", "digest", "who", "why")}
    when = _time(given["when"])
    if when is None:
        raise ValueError("an approval has no time")
    return ApprovalRecord(when=when, **texts)


def _mark(tree: object) -> MarkRecord:
    given = _of(dict, tree, "mark")
    _exactly(given, MarkRecord)
    texts = {name: _of(str, given[name], name) for name in ("step", "status", "who", "why")}
    when = _time(given["when"])
    if when is None:
        raise ValueError("a mark has no time")
    return MarkRecord(when=when, **texts)


def _exactly(tree: Mapping[str, Any], kind: type[State | StepState | ApprovalRecord | MarkRecord]) -> None:
    wrong = set(tree) ^ {f.name for f in fields(kind)}
    if wrong:
        raise ValueError(f"{kind.__name__} has other fields than expected: {', '.join(sorted(wrong))}")


def _of(kind: type[T], value: object, name: str) -> T:
    # bool is an int to isinstance, and no serial is True.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} is {type(value).__name__}, expected {kind.__name__}")
    return value


def _optional(kind: type[T], value: object, name: str) -> T | None:
    return None if value is None else _of(kind, value, name)


def _time(value: object) -> datetime | None:
    if value is None:
        return None
    moment = datetime.fromisoformat(_of(str, value, "time"))
    if moment.tzinfo is None:
        raise ValueError(f"time without a zone: {cast('str', value)}")
    return moment
