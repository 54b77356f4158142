"""The protocols that have more than one implementation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future
    from contextlib import AbstractContextManager
    from datetime import datetime

    from planrunner.state.control import Control
    from planrunner.state.lock import Holder
    from planrunner.state.record import State


class Clock(Protocol):
    """Time as the runner sees it."""

    def now(self) -> datetime:
        """The time of day, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never steps back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class StateStore(Protocol):
    """Keeps the operator's view of a run; see ``state.file`` and ``state.memory``."""

    def load(self) -> State | None:
        """The last saved state, None when there never was one; StateUnfit when it can't be read."""
        ...

    def save(self, state: State) -> None:
        """Make ``state`` the last saved one, whole or not at all."""
        ...


class StateHome(StateStore, Protocol):
    """A store that several processes know: with a lock, backups, and what one asks of another.

    See ``state.file`` (all beside the plan) and ``state.remote`` (in a bucket or a database).
    """

    @property
    def place(self) -> str:
        """What a person calls it: a path or a URL, never with a secret."""
        ...

    def history(self) -> tuple[State, ...]:
        """The previous states that are kept and can be read, newest first."""
        ...

    def set_aside(self) -> str | None:
        """Keep what is there, read or not, under another place and return it; the next save is over nothing.

        None when nothing is there.
        """
        ...

    def locked(self, clock: Clock) -> AbstractContextManager[None]:
        """Keep others away for the length of the block; LockedByAnother names who has it."""
        ...

    def holder(self) -> Holder | None:
        """Who holds the lock right now; None when nobody does."""
        ...

    def control(self) -> Control:
        """What operators ask of the run; the default when nobody ever asked."""
        ...

    def steer(self, control: Control) -> None:
        """Ask it; a run that is at work reads it within seconds."""
        ...

    def events(self) -> bytes | None:
        """The events as they were pushed; None where the journal itself is shared."""
        ...

    def push_events(self, first: int, lines: bytes) -> None:
        """Keep ``lines``, whole ones from serial ``first`` on; a longer text replaces the one of that serial."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A text in a cabinet: ``tag`` changes with every write, ``age`` is in seconds by the cabinet's own clock."""

    text: str
    tag: str
    age: float


class Cabinet(Protocol):
    """Texts by name, written only over what the writer has seen; see ``aws.bucket`` and ``postgres.cabinet``."""

    def read(self, name: str) -> Kept | None:
        """The text of that name, None when there is none."""
        ...

    def write(self, name: str, text: str, *, over: str | None) -> str | None:
        """Write over the text of tag ``over`` (None: over nothing) and return the new tag.

        None, and nothing is changed, when the text that is there is another one.
        """
        ...

    def put(self, name: str, text: str) -> None:
        """Write whatever is there."""
        ...

    def remove(self, name: str) -> None:
        """Remove it; harmless when it is not there."""
        ...

    def names(self, prefix: str) -> Sequence[str]:
        """The names that begin so, in order."""
        ...

    def restoring(self, name: str, over: str) -> str:
        """The command that puts the text ``name`` in the place of ``over``."""
        ...


class Signed(Protocol):
    """A lock that carries a text of its holder; see ``state.lease`` and ``postgres.cabinet``."""

    def held(self, signature: str, clock: Clock) -> AbstractContextManager[None]:
        """Hold it for the length of the block; LockedByAnother, its signature as the message, when another does."""
        ...

    def signature(self) -> str | None:
        """What its holder signed with; None when nobody holds it."""
        ...

    def check(self) -> None:
        """LockedByAnother when the lock was ours and is no longer."""
        ...


class Pool(Protocol):
    """Performs the tasks of bulk work over an Executor; see ``replication.threads`` and ``pools.cluster``."""

    @property
    def away(self) -> bool:
        """True where other processes perform them: they may do one twice, and nobody asks them between blocks."""
        ...

    @property
    def code(self) -> str:
        """The digest of the program whose tasks they are, where another could perform them."""
        ...

    def rouse(self) -> None:
        """Let those who will work get ready beside whatever is done before ``open``, which tells what fails."""
        ...

    def open(self) -> str | None:
        """Be ready for tasks, and say of whom it consists; None when it was.

        PoolUnfit when those who are there can't be given any, PoolLost when nobody is.
        """
        ...

    def submit(self, task: Any) -> Future[Any]:
        """Begin ``task`` when somebody is free, and let its result come."""
        ...

    def look(self) -> None:
        """PoolLost when nobody is there any more, so that what was submitted may never come."""
        ...

    def failure(self, error: BaseException) -> BaseException:
        """What an error of a future means: PoolLost, WorkerLost, or the task's own."""
        ...

    def close(self) -> None:
        """Give it back; safe to call twice."""
        ...
