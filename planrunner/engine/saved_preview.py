"""A preview as it is kept in a file: what a run would do, and what the world looked like; never a secret."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planrunner import __version__
from planrunner.engine.preview_json import step_json
from planrunner.errors import ServerError, StateUnfit, UsageError
from planrunner.masking import without_passwords
from planrunner.reading import bounded
from planrunner.replication.sighting import sighting

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from planrunner.engine.context import World
    from planrunner.engine.preview import Preview
    from planrunner.model import Json, Plan
    from planrunner.postgres.connection import Server
    from planrunner.state.record import State

KIND = "planrunner preview"
FORMAT_VERSION = 1
# That of ten thousand tables has some ten megabytes.
_LARGEST = 200_000_000
AGAIN = "Make another: planrunner preview PLAN --out FILE."


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A saved preview's parts. ``seen`` is what ``world_seen`` gave, ``steps`` as ``preview_json`` writes them.

    ``state`` holds lineage and serial of the state there was, None when the plan had never run.
    """

    plan: Mapping[str, Any]
    state: Mapping[str, Any] | None
    offline: bool
    seen: Mapping[str, Any]
    steps: tuple[Mapping[str, Any], ...]


def world_seen(world: World) -> dict[str, Json]:
    """Both servers and the RDS instance as they are now; None for a source that is away, and without RDS."""
    return {"source": _seen(world.source), "target": sighting(world.target), "rds": _rds(world)}


def _seen(source: Server) -> dict[str, Json] | None:
    try:
        return sighting(source)
    except ServerError:
        # Away, as in the reboot of a half-done step; who else needs it says so.
        return None


def _rds(world: World) -> dict[str, Json] | None:
    if world.cloud is None:
        return None
    now = world.cloud.describe()
    return {
        "instance": now.identifier,
        "status": now.status,
        "engine_version": now.engine_version,
        "parameter_group": now.group,
        "parameter_apply_status": now.apply_status,
    }


def saved(preview: Preview, plan: Plan, state: State | None, seen: Mapping[str, Json]) -> Saved:
    """The parts of what is to be saved, or compared with what was."""
    known = None if state is None or not state.serial else {"lineage": state.lineage, "serial": state.serial}
    return Saved(
        plan={"name": plan.name, "digest": plan.digest, "id": preview.plan_id},
        state=known,
        offline=preview.offline,
        seen=without_passwords(dict(seen)),
        steps=tuple(json.loads(json.dumps(step_json(step))) for step in preview.steps),
    )


def to_json(found: Saved, preview: Preview) -> str:
    """The document, indented, with a final newline."""
    tree = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "planrunner": __version__,
        "at": preview.at.isoformat(timespec="seconds"),
        "plan": dict(found.plan),
        "state": found.state,
        "offline": found.offline,
        "seen": found.seen,
        "steps": list(found.steps),
    }
    return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"


def read(path: Path) -> Saved:
    """Read what ``to_json`` wrote.

    UsageError for a file that is not there, damaged, no preview or made offline; StateUnfit for one of a newer
    format.
    """
    try:
        data = bounded(path, _LARGEST)
        tree = None if len(data) > _LARGEST else json.loads(data.decode("utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the preview {path}: {error.strerror}", remedy=AGAIN) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} is no saved preview: it is not JSON", remedy=AGAIN) from error
    if not isinstance(tree, dict) or tree.get("kind") != KIND:
        raise UsageError(f"{path} is no saved preview: it lacks kind: {KIND!r}", remedy=AGAIN)
    _check_version(path, tree.get("format_version"))
    try:
        found = _parts(tree)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        raise UsageError(f"the preview {path} is damaged: {what}", remedy=AGAIN) from error
    if found.offline:
        raise UsageError(
            f"the preview {path} was made offline: it has seen no server to compare with",
            remedy="Make one against the servers: planrunner preview PLAN --out FILE.",
        )
    return found


def _check_version(path: Path, version: object) -> None:
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise UsageError(f"the preview {path} is damaged: its format_version is no version", remedy=AGAIN)
    if version > FORMAT_VERSION:
        raise StateUnfit(
            f"the preview {path} has format version {str(version)[:20]}, and this planrunner knows up to"
            f" {FORMAT_VERSION}",
            remedy="Use the planrunner that wrote it, or make another with this one.",
        )


def _parts(tree: Mapping[str, Any]) -> Saved:
    plan, seen, steps = tree["plan"], tree["seen"], tree["steps"]
    for key in ("name", "digest", "id"):
        _of(str, plan[key], f"plan.{key}")
    for key in ("source", "target") if not tree["offline"] else ():
        _of(dict, seen[key], f"seen.{key}")
    for step in steps:
        _of(str, step["id"], "steps.id")
        for action in _of(list, step["actions"], "steps.actions"):
            _of(str, action["name"], "steps.actions.name")
            _of(list, action["statements"], "steps.actions.statements")
    return Saved(
        plan=plan,
        state=tree["state"],
        offline=_of(bool, tree["offline"], "offline"),
        seen=seen,
        steps=tuple(steps),
    )


def _of(kind: type[Any], value: object, where: str) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{where} is no {kind.__name__}")
    return value
