"""From the keys of a valid plan that say how it runs to their values, and the order in which its steps run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from planrunner.conditions import names
from planrunner.flow import (
    Condition,
    FailureClass,
    Flow,
    Hook,
    Notification,
    Occasion,
    OnFailure,
    Phase,
    Retries,
    Shape,
    Webhook,
)
from planrunner.references import reference
from planrunner.units import seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from planrunner.loading.variables import Value

T = TypeVar("T")


def flow(entry: Any, folder: Path, variables: Mapping[str, Value]) -> Flow:
    """How the step of that entry runs."""
    return Flow(
        timeout=seconds(entry["timeout"]) if "timeout" in entry else None,
        retries=_retries(entry["retries"]) if "retries" in entry else None,
        when=_condition(entry["when"], variables) if "when" in entry else None,
        needs=tuple(entry["needs"]) if "needs" in entry else None,
        on_failure=OnFailure(entry.get("on_failure", OnFailure.STOP.value)),
        before=_hooks(Phase.BEFORE, entry, folder),
        after=_hooks(Phase.AFTER, entry, folder),
    )


def notifications(given: Any, folder: Path) -> tuple[Notification, ...]:
    """The plan's notifications."""
    return tuple(_notification(entry, folder) for entry in given)


def needs_of(ids: Sequence[str], given: Sequence[tuple[str, ...] | None]) -> dict[str, tuple[str, ...]]:
    """What each step needs, in the order of the file: what it names, else the one above it."""
    found: dict[str, tuple[str, ...]] = {}
    for place, (step_id, named) in enumerate(zip(ids, given, strict=True)):
        above = (ids[place - 1],) if place else ()
        found[step_id] = above if named is None else named
    return found


def in_order(needs: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The ids so that each comes after those it needs, otherwise as they stand; without what a cycle holds back."""
    waiting, placed = list(needs), list[str]()
    while True:
        ready = next((one for one in waiting if set(needs[one]) <= set(placed)), None)
        if ready is None:
            return tuple(placed)
        waiting.remove(ready)
        placed.append(ready)


def _retries(given: Mapping[str, Any]) -> Retries:
    plain = Retries()
    return Retries(
        on=frozenset(map(FailureClass, given["on"])) if "on" in given else plain.on,
        attempts=given.get("attempts", plain.attempts),
        wait=seconds(given["wait"]) if "wait" in given else plain.wait,
        max_wait=seconds(given["max_wait"]) if "max_wait" in given else plain.max_wait,
    )


def _condition(given: str | bool, variables: Mapping[str, Value]) -> Condition:  # noqa: FBT001  # as the plan has it
    text = given if isinstance(given, str) else str(given).lower()
    used = {name[1] for name in names(text) if name[0] == "vars"}
    return Condition(text=text, variables={name: variables[name] for name in sorted(used)})


def _hooks(phase: Phase, entry: Mapping[str, Any], folder: Path) -> tuple[Hook, ...]:
    given: Sequence[Mapping[str, Any]] = entry.get(phase.value, ())
    return tuple(_hook(phase, number, hook, folder) for number, hook in enumerate(given, 1))


def _hook(phase: Phase, number: int, given: Mapping[str, Any], folder: Path) -> Hook:
    env = {
        name: value if isinstance(value, str) else reference(value["secret"], folder)
        for name, value in given.get("env", {}).items()
    }
    return Hook(
        phase=phase,
        number=number,
        command=tuple(given["command"]),
        env=env,
        timeout=seconds(given.get("timeout", "5m")),
        repeatable=given.get("repeatable", False),
    )


def _notification(given: Mapping[str, Any], folder: Path) -> Notification:
    return Notification(
        on=frozenset(map(Occasion, given["on"])),
        command=tuple(given.get("command", ())),
        webhook=_webhook(given["webhook"], folder) if "webhook" in given else None,
        timeout=seconds(given.get("timeout", "10s")),
    )


def _webhook(given: Mapping[str, Any], folder: Path) -> Webhook:
    url, header = given["url"], given.get("header")
    return Webhook(
        url=url if isinstance(url, str) else reference(url["secret"], folder),
        header=(header["name"], reference(header["secret"], folder)) if header else None,
        shape=Shape(given.get("format", Shape.JSON.value)),
    )
