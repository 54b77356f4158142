"""The contract of steps: a step compares wish and servers and returns the actions that are missing.

A step never changes anything while it is asked; only the engine performs actions, and asks again
after the last one. Optional abilities are the small protocols at the end of this module.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar, cast, runtime_checkable

from planrunner.errors import SecretUnavailable
from planrunner.steering import unsteered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager

    from planrunner.aws.rds import Rds
    from planrunner.model import (
        Estimate,
        Finding,
        Json,
        Plan,
        Residue,
        Secret,
        SecretRef,
        Side,
        StepSpec,
        Upkeep,
    )
    from planrunner.ports import Clock
    from planrunner.postgres.connection import Server
    from planrunner.steering import Steering
    from planrunner.verification import Verification, VerifyTerms

T = TypeVar("T")

NO_LOCKS = ("none",)
NO_NEEDS = ("nothing beyond a session",)
# What an undo begins with that can't be had.
IRREVERSIBLE = "irreversible"
# What lasts of an action that `planrunner cleanup` takes back, and of one that leaves nothing.
TAKEN_BACK = "until cleanup"
NOTHING_STAYS = "nothing"


def nowhere(ref: SecretRef) -> Secret:
    """Looks no secret up: for whoever gives a run no other way."""
    raise SecretUnavailable(f"{ref} can't be looked up here", remedy="Run the plan from the command line.")


def nothing_noted(_: str) -> Mapping[str, Json]:
    """Knows of no step's notes: for a run without a state."""
    return {}


def not_noted(_: Mapping[str, Json]) -> None:
    """Refuses a note: for whoever only looks."""
    raise AssertionError("only an action that is performed makes notes")


class Closeable(Protocol):
    """Something that lives as long as the process and is given back at its end."""

    def close(self) -> None:
        """Give it back; safe to call twice."""
        ...


class Held:
    """What lives as long as this process and is shared by the steps: a snapshot, a lease."""

    def __init__(self) -> None:
        self._resources: dict[str, Closeable] = {}

    def put(self, name: str, resource: Closeable) -> None:
        """Keep ``resource`` under ``name``, closing what was there."""
        self.drop(name)
        self._resources[name] = resource

    def get(self, name: str, kind: type[T]) -> T | None:
        """What is kept under ``name``, if it is of that kind."""
        found = self._resources.get(name)
        return found if isinstance(found, kind) else None

    def drop(self, name: str) -> None:
        """Close and forget what is kept under ``name``."""
        found = self._resources.pop(name, None)
        if found is not None:
            found.close()

    def close(self) -> None:
        """Close everything, the newest first."""
        for name in reversed(list(self._resources)):
            self.drop(name)


class Seen:
    """Held by a step whose work shows nowhere but in this process: that it was done."""

    def close(self) -> None:
        """There is nothing to give back."""


class Others(Protocol):
    """What the plan's other steps left behind, for a step that takes it away."""

    def leftovers(self) -> Sequence[Action]:
        """Every removal that is still to be done, the last step's first; reads only."""
        ...

    def harmful(self) -> Sequence[Residue]:
        """What the servers still show of this plan and should not; reads only."""
        ...


class _Alone:
    def leftovers(self) -> Sequence[Action]:
        return ()

    def harmful(self) -> Sequence[Residue]:
        return ()


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a step sees: its own entry of the plan, both servers, the cloud, and how to tell news.

    ``tell`` journals one line of news with its fields and shows it. ``planned_before`` holds the
    ``uses`` of the steps that stand earlier in the plan and are not done yet, so that a step can be
    planned before they ran. ``cloud`` is None when the plan names no RDS instance, ``replica`` when it names none.
    ``shield`` holds back a signal for the length of a block that must not be torn. ``resolve`` looks a secret of the
    step's options up.
    ``others`` tells what the plan's other steps left behind.
    ``steering`` tells what operators ask for now; long work heeds it at each of its unit boundaries.
    ``noted`` tells what the state holds of a step's figures, by its id; ``note`` puts this step's into the state, and
    they are on the disk when it returns: for what no server shows, such as the name of a job elsewhere.
    """

    plan: Plan
    spec: StepSpec
    plan_id: str
    source: Server
    target: Server
    cloud: Rds | None
    clock: Clock
    held: Held
    tell: Callable[[str, Mapping[str, Json]], None]
    planned_before: frozenset[str] = field(default_factory=frozenset)
    replica: Server | None = None
    shield: Callable[[], AbstractContextManager[None]] = nullcontext
    resolve: Callable[[SecretRef], Secret] = nowhere
    others: Others = field(default_factory=_Alone)
    steering: Steering = unsteered
    noted: Callable[[str], Mapping[str, Json]] = nothing_noted
    note: Callable[[Mapping[str, Json]], None] = not_noted

    @contextmanager
    def still(self) -> Iterator[None]:
        """Read each whole catalogue once for the length of the block, in which this thread changes nothing."""
        with self.source.memory.kept(), self.target.memory.kept():
            yield

    def option(self, name: str, default: T) -> T:
        """The step's option ``name``, or the default; its type was checked by the schema."""
        return cast("T", self.spec.options.get(name, default))

    def option_of(self, uses: str, name: str, default: T) -> T:
        """An option of the plan's step of kind ``uses``: a step knows the others only by the plan."""
        options = next((spec.options for spec in self.plan.steps if spec.uses == uses), {})
        return cast("T", options.get(name, default))


@dataclass(frozen=True, kw_only=True)
class Action:
    """One change that is missing, and the only thing that may make it.

    ``name`` is stable within its step. ``statements`` are the exact SQL or AWS calls, secrets as
    references, with shapes and remarks as ``planrunner.shapes`` reads them. ``locks``, ``needs`` and
    ``undo`` are always told, be it as NO_LOCKS, NO_NEEDS and IRREVERSIBLE. ``adjusts``: something is there
    and is changed. ``asks`` is a question that must be answered (approve, --yes) before it is performed;
    ``blocked`` says why it can't be performed at all and what a person must do. ``unobservable``
    actions leave no trace that a resume could look for. ``recovery``: only an interruption made it necessary.
    ``lasting`` is what of it stays when the migration is over and cleaned up: TAKEN_BACK, NOTHING_STAYS or words;
    None where the step does not say.
    ``perform`` is re-entrant.
    """

    name: str
    summary: str
    where: Side
    perform: Callable[[Run], None]
    statements: tuple[str, ...] = ()
    locks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    undo: str | None = None
    lasting: str | None = None
    asks: str | None = None
    blocked: str | None = None
    adjusts: bool = False
    destructive: bool = False
    restarts: bool = False
    observable: bool = True
    decided_at_run_time: bool = False
    recovery: bool = False


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a step sees of the plan alone, with no server: its own entry, and the plan id where a state tells it."""

    plan: Plan
    spec: StepSpec
    plan_id: str

    def option(self, name: str, default: T) -> T:
        """The step's option ``name``, or the default."""
        return cast("T", self.spec.options.get(name, default))

    def option_of(self, uses: str, name: str, default: T) -> T:
        """An option of the plan's step of kind ``uses``."""
        options = next((spec.options for spec in self.plan.steps if spec.uses == uses), {})
        return cast("T", options.get(name, default))


class Step(Protocol):
    """A kind of step; its module holds one class of this shape, its schema lies beside it."""

    uses: ClassVar[str]

    def actions(self, run: Run) -> Sequence[Action]:
        """What is missing, in order; reads only. Nothing missing: an empty sequence."""
        ...


def blocked(
    *, name: str, summary: str, where: Side, none: str, why: str, needs: Sequence[str] = NO_NEEDS
) -> Action:
    """An action that can't be performed before somebody has done what ``why`` says; ``none``: its lack of statements."""
    return Action(
        name=name,
        summary=summary,
        where=where,
        statements=(f"-- none{none}",),
        locks=NO_LOCKS,
        needs=tuple(needs),
        undo="nothing is done",
        lasting=NOTHING_STAYS,
        perform=lambda _: None,
        blocked=why,
    )


def outlined(actions: Sequence[Action]) -> tuple[Action, ...]:
    """Actions of an outline: whether each is needed at all, the run decides."""
    return tuple(replace(action, decided_at_run_time=True) for action in actions)


@runtime_checkable
class Checking(Protocol):
    """A step that can say beforehand what would stop it."""

    def findings(self, run: Run) -> Sequence[Finding]:
        """Every check with its verdict; reads only."""
        ...


@runtime_checkable
class Estimating(Protocol):
    """A step that can say beforehand what its work will come to; only a preview asks."""

    def estimates(self, run: Run) -> Sequence[Estimate]:
        """Sizes, times, and how they came about; reads only, and measures for a few seconds at most."""
        ...


@runtime_checkable
class Outlining(Protocol):
    """A step that can say what it may do from the plan alone."""

    def outline(self, draft: Draft) -> Sequence[Action]:
        """The actions it may come to, their statements with ``…`` for what the servers decide; nothing is asked."""
        ...


@runtime_checkable
class Acquainted(Protocol):
    """A step that can say what it found as it should be."""

    def satisfied(self, run: Run) -> Sequence[str]:
        """What is there already, a sentence each; reads only."""
        ...


@runtime_checkable
class Upkeeping(Protocol):
    """A step whose work keeps records, markers or sessions beside its actions."""

    @property
    def upkeep(self) -> Sequence[Upkeep]:
        """All of it, whatever its actions are."""
        ...


@runtime_checkable
class Progressing(Protocol):
    """A step that can say how far it is, from the servers alone."""

    def progress(self, run: Run) -> Mapping[str, Json]:
        """Figures for status and report; recorded when the step is done."""
        ...


@runtime_checkable
class Lasting(Protocol):
    """A step that keeps something going once it is done."""

    def goes_on(self, run: Run) -> None:
        """Raise what keeps it from going on, with what to do; changes nothing but a barrier row."""
        ...


@runtime_checkable
class Sampling(Protocol):
    """A step that can be watched: asked every few seconds while it is at work."""

    def sample(self, run: Run) -> Mapping[str, Json]:
        """How far it is, by one cheap query a server; reads only."""
        ...


@runtime_checkable
class Cleaning(Protocol):
    """A step that leaves things on the servers and can take them away again."""

    def leftovers(self, run: Run) -> Sequence[Action]:
        """The removals that are still to be done, in order; reads only."""
        ...


@runtime_checkable
class Scanning(Protocol):
    """A step that can look for what migrations left on both servers, whoever made it and whatever is recorded."""

    def residue(self, run: Run) -> Sequence[Residue]:
        """Everything that is there, of this plan and of others; reads only."""
        ...


@runtime_checkable
class Verifying(Protocol):
    """A step that can compare both sides at any time."""

    def verify(self, run: Run, terms: VerifyTerms) -> Verification:
        """Compare tables while replication runs; changes nothing but a barrier row, unless ``terms`` mend."""
        ...


@runtime_checkable
class Crossing(Protocol):
    """A step that leads writers to the other side, can rehearse it, and can lead them back."""

    def crossed(self, run: Run) -> bool:
        """True once writers may be on the other side, or it can't be told that they are not; reads only."""
        ...

    def rehearsal(self, run: Run) -> Sequence[Action]:
        """Everything of the crossing but its commit; reads only."""
        ...

    def rollback(self, run: Run) -> Sequence[Action]:
        """What is missing until writers are back where they came from; reads only."""
        ...

    def rollback_rehearsal(self, run: Run) -> Sequence[Action]:
        """Everything of the way back but its commit; reads only."""
        ...
