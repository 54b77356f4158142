"""What the source's parameter group must say, compared with what it says and with what the server has in force."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from planrunner.aws.names import group_name_for
from planrunner.aws.parameters import Change, Parameter, ParameterGroup, differing
from planrunner.errors import ServerError, StepConflict, StepFailed
from planrunner.postgres import headroom
from planrunner.postgres.headroom import Demand, Headroom
from planrunner.replication.names import Names

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.aws.carrier import Carrier, Standing
    from planrunner.step import Run

LOGICAL = "rds.logical_replication"
_OTHER = "Give the step another parameter_group, or none: it then makes one of the right family."


@dataclass(frozen=True, kw_only=True)
class Missing:
    """What keeps the source from the wish. ``room`` is None while the server does not answer.

    ``group`` is None where it has to be made, then as a copy of ``model`` where that is not None. ``changes`` are the
    parameters that it lacks, ``there`` everything in it; ``others`` use it too; ``also`` names what else attaching it
    changes.
    """

    now: Standing
    room: Headroom | None
    name: str
    group: ParameterGroup | None
    model: str | None
    changes: tuple[Change, ...]
    there: Mapping[str, Parameter]
    others: tuple[str, ...]
    also: tuple[str, ...]
    unmet: tuple[str, ...]

    @property
    def attached(self) -> bool:
        """True when the group is the one that rules the source."""
        return self.group is not None and self.now.group == self.name

    @property
    def written(self) -> bool:
        """True when the group is attached and says everything that it must."""
        return self.attached and not self.changes

    @property
    def restart(self) -> bool:
        """True when the wish takes effect with a reboot only: new groups and static parameters wait for one."""
        if not self.attached or any(change.static for change in self.changes):
            return True
        # A dynamic parameter that the server does not show yet is on its way.
        static = {n for n in self.unmet if n not in self.there or self.there[n].static}
        return not self.changes and bool(static)


def demand(run: Run) -> Demand:
    """What the plan will hold on the source."""
    return Demand(
        owned=Names(plan_id=run.plan_id).plan_prefix,
        streams=run.option_of("snapshot", "streams", 1),
        back=run.option_of("cutover_verify", "reverse", False),  # noqa: FBT003  # the option's default
    )


def parameters(run: Run) -> dict[str, str]:
    """The step's further parameters, as a group writes them."""
    given = run.option("parameters", cast("dict[str, object]", {}))
    if LOGICAL in given:
        raise StepFailed(
            f"the step's parameters name {LOGICAL}, which it sets by itself",
            remedy="Leave it out of the parameters.",
        )
    return {name: _text(value) for name, value in given.items()}


def _text(value: object) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)


def room(run: Run) -> Headroom:
    """What the server has in force; ServerError while it is away."""
    return headroom.look(run.source, demand(run), parameters(run))


def room_if_answering(run: Run) -> Headroom | None:
    """The same, None while the server is away."""
    try:
        return room(run)
    except ServerError:
        return None


def unmet(run: Run, found: Headroom) -> tuple[str, ...]:
    """The parameters whose wish is not in force, by the name that a group gives them."""
    return tuple(wish.name for wish in wishes(run, found) if not _in_force(wish, found))


def _in_force(wish: Wish, found: Headroom) -> bool:
    if wish.name == LOGICAL:
        return found.logical
    return found.enough(wish.name, int(wish.value)) if wish.least else found.has(wish.name, wish.value)


def missing(run: Run, carrier: Carrier, now: Standing, found: Headroom | None) -> Missing:
    """Compare; StepConflict for a group of another family, StepFailed for what no group can be given."""
    groups = carrier.groups(now.level)
    name = group_name(run, now)
    group = groups.find(name)
    _must_fit(group, now)
    attached = now.group if not now.group.startswith("default.") else None
    model = attached if group is None else None
    there = groups.parameters(name if group else now.group)
    users = groups.users(name) if group else ()
    changes = tuple(_changes(wishes(run, found), there, name))
    also: tuple[str, ...] = ()
    if group is not None and now.group != name:
        also = differing(there, groups.parameters(now.group), [c.name for c in changes])
    return Missing(
        now=now,
        room=found,
        name=name,
        group=group,
        model=model,
        changes=changes,
        there=there,
        others=tuple(user for user in users if user != now.name),
        also=also,
        unmet=() if found is None else unmet(run, found),
    )


def group_name(run: Run, now: Standing) -> str:
    """The plan's group, else the attached one, else one we make: AWS's default ones can't be changed."""
    named = run.option("parameter_group", "")
    if named.startswith("default."):
        raise StepFailed(
            f"aws: parameter group {named} is one of AWS's own, which can't be changed", remedy=_OTHER
        )
    if named:
        return named.lower()  # as AWS keeps it
    return group_name_for(now.name) if now.group.startswith("default.") else now.group


def _must_fit(group: ParameterGroup | None, now: Standing) -> None:
    if group is not None and group.family != now.family:
        raise StepConflict(
            f"aws: parameter group {group.name} is of family {group.family};"
            f" {now.instance.identifier} ({now.instance.engine} {now.instance.engine_version}) needs {now.family}",
            remedy=_OTHER,
        )


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A parameter and its value, or for a limit the least value; ``optional``: its default may do as well."""

    name: str
    value: str
    least: bool = False
    optional: bool = False

    def met(self, value: str | None) -> bool:
        """True when a group that says ``value`` grants it; a formula or a default is known by the server only."""
        if value is None or not value.lstrip("-").isdigit():
            return self.optional or (not self.least and value == self.value)
        return int(value) >= int(self.value) if self.least else value == self.value


def wishes(run: Run, found: Headroom | None) -> list[Wish]:
    """Everything that the group must say once it rules the source."""
    own = parameters(run)
    needs = dict(found.needs) if found else {}
    raises = found.raises if found else {}
    for name in headroom.LIMITS:
        if name in own:
            least = max(needs.get(name, 0), _whole(name, own.pop(name)))
            needs[name] = least
            if found and not found.enough(name, least):
                raises[name] = least
    limits = (Wish(name=n, value=str(v), least=True, optional=n not in raises) for n, v in needs.items())
    return [
        Wish(name=LOGICAL, value="1"),
        *limits,
        *(Wish(name=n, value=v) for n, v in own.items()),
    ]


def _whole(name: str, value: str) -> int:
    if not value.isdigit():
        raise StepFailed(
            f"the step's parameters give {name} as {value!r}", remedy="Give it as a whole number."
        )
    return int(value)


def _changes(wanted: list[Wish], there: Mapping[str, Parameter], group: str) -> list[Change]:
    found: list[Change] = []
    for wish in wanted:
        known = there.get(wish.name)
        if known is None and wish.optional:
            continue
        if known is None:
            raise StepFailed(
                f"aws: there is no parameter {wish.name} in the family of parameter group {group}",
                remedy="Correct the step's parameters; what there is tells: aws rds describe-db-parameters"
                f" --db-parameter-group-name {group}",
            )
        if wish.met(known.value):
            continue
        if not known.modifiable:
            raise StepFailed(
                f"aws: parameter {wish.name} can't be changed in any parameter group; it is {known.value}",
                remedy="Leave it out of the step's parameters; AWS sets it by itself.",
            )
        found.append(Change(name=wish.name, value=wish.value, method=known.method))
    return found


def nothing_known(now: Standing, name: str, changes: tuple[Change, ...]) -> Missing:
    """What a plan alone tells: a group that has to be made and given ``changes``."""
    return Missing(
        now=now,
        room=None,
        name=name,
        group=None,
        model=None,
        changes=changes,
        there={},
        others=(),
        also=(),
        unmet=(),
    )
