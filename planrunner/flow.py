"""How a step runs, as frozen values: when, after which others, how long, how often, and what follows a failure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from planrunner.model import SecretRef


class OnFailure(Enum):
    """What becomes of the run when a step fails."""

    STOP = "stop"
    CONTINUE = "continue"
    ROLLBACK = "rollback"


class FailureClass(Enum):
    """A kind of failure that may be gone at the next attempt."""

    CONNECTION = "connection"
    SERIALIZATION = "serialization"
    DEADLOCK = "deadlock"
    LOCK_TIMEOUT = "lock_timeout"
    RESOURCES = "resources"
    THROTTLING = "throttling"


class Phase(Enum):
    """Whether a hook is run before the step's work or after it."""

    BEFORE = "before"
    AFTER = "after"


class Occasion(Enum):
    """What a notification may be sent on."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"
    WAITING = "waiting"
    INTERRUPTED = "interrupted"
    STEP_DONE = "step_done"
    STEP_FAILED = "step_failed"
    STEP_SKIPPED = "step_skipped"
    RETRY = "retry"
    CUTOVER = "cutover"
    ROLLBACK = "rollback"


class Shape(Enum):
    """The body of a webhook's request."""

    JSON = "json"
    SLACK = "slack"


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Which failures are tried again and how often; ``attempts`` counts the first. Waits in seconds, with jitter."""

    on: frozenset[FailureClass] = frozenset(
        {
            FailureClass.CONNECTION,
            FailureClass.SERIALIZATION,
            FailureClass.DEADLOCK,
            FailureClass.LOCK_TIMEOUT,
            FailureClass.THROTTLING,
        }
    )
    attempts: int = 3
    wait: float = 1.0
    max_wait: float = 60.0


@dataclass(frozen=True, kw_only=True)
class Hook:
    """A command around a step, as an argument list; ``timeout`` in seconds.

    ``env`` goes over the environment of planrunner itself. ``repeatable``: it may be run again when nobody knows
    how its last run ended.
    """

    phase: Phase
    number: int
    command: tuple[str, ...]
    env: Mapping[str, str | SecretRef] = field(default_factory=dict)
    timeout: float = 300.0
    repeatable: bool = False

    @property
    def name(self) -> str:
        """Its name among the actions of its step."""
        return f"{self.phase.value} {self.number}"


@dataclass(frozen=True, kw_only=True)
class Condition:
    """An expression and the values of the plan's variables in it."""

    text: str
    variables: Mapping[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The part of a step's entry that does not change what its work does.

    ``needs`` is None where the plan does not say: then the step needs the one before it. ``retries`` is None for
    the default, ``timeout`` in seconds for each attempt.
    """

    timeout: float | None = None
    retries: Retries | None = None
    when: Condition | None = None
    needs: tuple[str, ...] | None = None
    on_failure: OnFailure = OnFailure.STOP
    before: tuple[Hook, ...] = ()
    after: tuple[Hook, ...] = ()

    @property
    def hooks(self) -> tuple[Hook, ...]:
        """All hooks, in order."""
        return self.before + self.after

    def repeats(self, action: str | None) -> bool:
        """True when ``action`` is a hook that may be run again although nobody knows how it ended."""
        return any(hook.repeatable and hook.name == action for hook in self.hooks)


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where a notification is posted; ``header`` is the name and the secret value of one header."""

    url: str | SecretRef
    header: tuple[str, SecretRef] | None = None
    shape: Shape = Shape.JSON


@dataclass(frozen=True, kw_only=True)
class Notification:
    """Whom to tell of what: by a command, or by a webhook. ``timeout`` in seconds, for each try."""

    on: frozenset[Occasion]
    command: tuple[str, ...] = ()
    webhook: Webhook | None = None
    timeout: float = 10.0
