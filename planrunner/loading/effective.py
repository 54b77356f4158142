"""The plan as it is once everything is merged and resolved: printed as YAML, and compared with another."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from difflib import unified_diff
from typing import TYPE_CHECKING, cast

import yaml

from planrunner.loading.build import digest_of, examined
from planrunner.loading.document import dotted
from planrunner.loading.overlays import layers
from planrunner.loading.scalars import plain

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from planrunner.loading.document import Keys
    from planrunner.loading.variables import Given
    from planrunner.model import Json

_ORDER = ("apiVersion", "kind", "metadata", "connections", "steps")
_OPENING = re.compile(r"\{[{%#]")
_UNBROKEN = 1 << 30
_CONTEXT = 1


@dataclass(frozen=True, kw_only=True)
class Effective:
    """A plan without overlays, templates and variables: secrets are references, sensitive values ``***``.

    ``files`` are what it was put together from, itself first; ``masked`` says where something is hidden.
    """

    path: Path
    files: tuple[Path, ...]
    tree: Mapping[str, Json]
    masked: tuple[str, ...]
    digest: str

    def to_yaml(self) -> str:
        """The plan as a file that loads again, as long as nothing in it is masked."""
        lead = f"# The effective plan of {self.path}"
        below = [str(file) for file in self.files[1:]]
        lead += f", which extends {', then '.join(below)}" if below else ""
        lines = [f"{lead}.", *(f"# Sensitive, so not shown: {where}" for where in self.masked)]
        return "\n".join([*lines, _dumped(_escaped(self.tree, ()))])

    def to_json(self) -> dict[str, Json]:
        """The same for programs."""
        return {
            "plan": str(self.path),
            "files": [str(file) for file in self.files],
            "digest": self.digest,
            "masked": list(self.masked),
            "effective": self.tree,
        }


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value that two plans do not have in common; None stands for a plan that lacks it."""

    path: str
    before: str | None
    after: str | None

    def to_json(self) -> dict[str, Json]:
        """For programs, with the values as values."""
        word = "added" if self.before is None else "removed" if self.after is None else "changed"
        return {"path": self.path, "change": word, "before": _read(self.before), "after": _read(self.after)}


def effective(path: Path, given: Given) -> Effective:
    """Put a plan together; no secret is looked up. PlanInvalid with all its problems."""
    sealed = examined(path, given).sealed
    whole = cast("dict[str, Json]", sealed.tree)
    return Effective(
        path=path,
        files=layers(path),
        tree={name: whole[name] for name in (*_ORDER, *whole) if name in whole and name != "vars"},
        masked=tuple(sorted(_named(whole, keys) for keys in sealed.sensitive)),
        digest=digest_of(whole),
    )


def differences(before: Effective, after: Effective) -> list[Change]:
    """What differs, by path; steps are compared by their ids."""
    old, new = _flat(before.tree), _flat(after.tree)
    paths = sorted({*old, *new})
    return [
        Change(path=path, before=old.get(path), after=new.get(path))
        for path in paths
        if old.get(path) != new.get(path)
    ]


def unified(before: Effective, after: Effective) -> str:
    """The differences as a unified diff with one value a line; empty when there are none."""
    old, new = (
        [f"{path}: {value}" for path, value in sorted(_flat(plan.tree).items())] for plan in (before, after)
    )
    names = (str(before.path), str(after.path))
    return "\n".join(unified_diff(old, new, *names, lineterm="", n=_CONTEXT))


def _read(text: str | None) -> Json:
    return None if text is None else cast("Json", json.loads(text))


def _flat(tree: Mapping[str, Json]) -> dict[str, str]:
    found = {_named(tree, keys): json.dumps(value, ensure_ascii=False) for keys, value in _leaves(tree, ())}
    steps = cast("list[dict[str, Json]]", tree["steps"])
    return {**found, "steps": json.dumps([step["id"] for step in steps])}


def _leaves(value: Json, keys: Keys) -> Iterator[tuple[Keys, Json]]:
    if isinstance(value, dict) and value:
        for name, inner in cast("dict[str, Json]", value).items():
            yield from _leaves(inner, (*keys, name))
    elif isinstance(value, list) and value:
        for index, inner in enumerate(cast("list[Json]", value)):
            yield from _leaves(inner, (*keys, index))
    else:
        yield keys, value


def _named(tree: Mapping[str, Json], keys: Keys) -> str:
    """``steps[copy].with.jobs``: by id, so that a step that moved is still itself."""
    if keys[0] != "steps" or len(keys) == 1:
        return dotted(keys)
    step = cast("list[dict[str, Json]]", tree["steps"])[cast("int", keys[1])]
    inner = dotted(keys[2:])
    joint = "" if inner.startswith("[") else "."
    return f"steps[{step['id']}]{joint}{inner}"


def _escaped(value: Json, keys: Keys) -> Json:
    """The tree with what would be read as a template written as one that comes to it."""
    if isinstance(value, dict):
        return {n: _escaped(inner, (*keys, n)) for n, inner in cast("dict[str, Json]", value).items()}
    if isinstance(value, list):
        return [_escaped(inner, (*keys, i)) for i, inner in enumerate(cast("list[Json]", value))]
    if isinstance(value, str) and "password" not in keys[:3]:
        return _OPENING.sub(lambda found: f'{{{{ "{found[0]}" }}}}', value)
    return value


class _Dumper(yaml.SafeDumper):
    """Writes what our reader reads as the same values."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002  # PyYAML's
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        quoted = plain(value) is not value or not value.isprintable()
    except ValueError:
        quoted = True
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style='"' if quoted else None)


_Dumper.add_representer(str, _text)


def _dumped(tree: Json) -> str:
    text: str = yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_UNBROKEN, default_flow_style=False
    )
    return text
