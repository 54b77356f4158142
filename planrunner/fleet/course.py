"""Works on a fleet: wave after wave, so many members at once, until it is done, waits, or too much has failed."""

from __future__ import annotations

import shlex
import signal
import threading
from collections import Counter, deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from planrunner.errors import (
    DecisionNeeded,
    Interrupted,
    LockedByAnother,
    PlanrunnerError,
    PoolLost,
    StepFailed,
)
from planrunner.fleet.crew import Stranger, is_held
from planrunner.fleet.journal import Entry, What, append, chronicle
from planrunner.fleet.standing import INTERRUPTED, is_done, words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

    from planrunner.fleet.crew import Ended, Errand, Hand
    from planrunner.fleet.folder import Folder
    from planrunner.fleet.homes import HomeOf
    from planrunner.fleet.model import Fleet, Member, Wave
    from planrunner.ports import Clock

_LOOK_SECONDS = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_MOST_NAMED = 5
_MOST_REFUSALS = 10


@dataclass(kw_only=True)
class Tally:
    """What became of the members that this run worked on, by name, and the wave that may not begin yet."""

    failed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    gate: Wave | None = None


@dataclass(frozen=True, kw_only=True)
class Means:
    """How a course is heard of, and how it comes to its members.

    ``tell`` hears a line for each member that begins or ends, ``begin`` begins the run of one, whose state ``homes``
    knows.
    """

    tell: Callable[[str], None]
    homes: HomeOf
    begin: Callable[[Member], Hand | Errand]


class Course:
    """One run of a fleet. The caller holds the fleet's lock.

    With ``until`` each member goes as far as that step, and counts as done when it is; the runs that ``means`` begin
    know of it.
    """

    def __init__(
        self,
        fleet: Fleet,
        folder: Folder,
        clock: Clock,
        means: Means,
        *,
        until: str | None = None,
    ) -> None:
        self._fleet = fleet
        self._folder = folder
        self._clock = clock
        self._tell = means.tell
        self._homes = means.homes
        self._start = means.begin
        self._until = until
        self._tally = Tally()
        self._working: list[Hand | Errand | Stranger] = []
        self._signals = 0
        self._passed_on = 0

    def go(self) -> None:
        """Work until nothing can be begun any more.

        StepFailed when members failed, DecisionNeeded when a wave or a member waits for somebody, Interrupted when a
        signal came; whatever it is, no run of ours is at work any more, and the next call goes on. PoolLost when nobody
        knows of those at work: the next call waits for them.
        """
        self._append(Entry(at=self._clock.now(), what=What.ASKED, about=self._fleet.name, until=self._until))
        with self._listening():
            try:
                for wave in self._fleet.waves:
                    self._wave(wave)
                    if self._held_up(wave):
                        break
            except PoolLost:
                self._working.clear()
                raise
            finally:
                self._wind_up()
        self._conclude()

    def _held_up(self, wave: Wave) -> bool:
        """Whether what became of this wave keeps the next one from beginning."""
        tally = self._tally
        stopped = self._enough() or (wave.canary and bool(tally.failed))
        return stopped or bool(tally.waiting) or tally.gate is not None

    def _wave(self, wave: Wave) -> None:
        left = deque(member for member in self._fleet.of(wave) if not self._done(member))
        if not left:
            return
        if wave.manual and not chronicle(self._folder.journal).approves(wave.name, wave.digest, self._until):
            self._tally.gate = wave
            return
        self._tell(
            f"wave {wave.name}: {len(left)} of {len(wave.members)} members are to be {self._all_that_is_asked}"
        )
        while (left and not self._enough()) or self._working:
            self._heed_signals()
            while left and len(self._working) < self._fleet.max_parallel and not self._enough():
                self._begin(left.popleft())
            left.extend(self._ended())
            self._clock.sleep(_LOOK_SECONDS)

    @property
    def _all_that_is_asked(self) -> str:
        return "done" if self._until is None else f"done up to {self._until}"

    def _done(self, member: Member) -> bool:
        try:
            with self._homes(member) as home:
                return is_done(member, home.load(), self._until)
        except PlanrunnerError:
            # Its own run says what is wrong with the state, or with the way to it; the others go on.
            return False

    def _begin(self, member: Member) -> None:
        if is_held(member, self._homes):
            self._tell(f"{member.name}: a run that somebody else began is at work; it is waited for")
            self._working.append(Stranger(member, self._homes, self._clock))
            return
        self._note(What.BEGUN, member)
        self._working.append(self._start(member))
        self._tell(f"{member.name}: begun")

    def _ended(self) -> Iterator[Member]:
        """Take note of the runs that have ended; the members that are to be begun again."""
        for work in list(self._working):
            try:
                ended = work.poll()
            except PlanrunnerError:
                # It is lost to us; whoever else is at work is still seen to.
                self._working.remove(work)
                raise
            if ended is None:
                continue
            self._working.remove(work)
            if ended.code is None:
                if not self._done(work.member):
                    yield work.member
                continue
            self._note(What.ENDED, work.member, ended)
            if ended.code == LockedByAnother.exit_code and self._again(work.member):
                yield work.member
            else:
                self._judge(work.member, ended)

    def _again(self, member: Member) -> bool:
        """Somebody was quicker between our look and its start, or a server has not noticed yet that he is gone."""
        self._tally.refused[member.name] += 1
        return self._tally.refused[member.name] < _MOST_REFUSALS

    def _judge(self, member: Member, ended: Ended) -> None:
        match ended.code:
            case 0:
                self._tell(f"{member.name}: {self._all_that_is_asked}")
            case DecisionNeeded.exit_code:
                self._tally.waiting.append(member.name)
                self._tell(f"{member.name}: waits: {_head(ended)}")
            case code if code in INTERRUPTED:
                self._tell(f"{member.name}: interrupted")
                if not self._signals:
                    # By somebody who stopped this one alone.
                    self._tally.failed.append(member.name)
            case _:
                self._tally.failed.append(member.name)
                self._tell(f"{member.name}: failed: {_head(ended)}")

    def _enough(self) -> bool:
        return bool(self._signals) or len(self._tally.failed) >= self._fleet.stop_after

    def _note(self, what: What, member: Member, ended: Ended | None = None) -> None:
        entry = Entry(
            at=self._clock.now(),
            what=what,
            about=member.name,
            code=ended.code if ended else None,
            told=ended.told if ended else None,
            until=self._until if what is What.BEGUN else None,
        )
        self._append(entry)

    def _append(self, entry: Entry) -> None:
        append(self._folder.journal, entry)

    def _wind_up(self) -> None:
        """However the work ends: no run of ours outlives it unseen."""
        if self._working and not self._signals:
            # Something broke here; the members' own work is as safe as after a signal.
            self._signals = 1
        while any(not isinstance(work, Stranger) for work in self._working):
            self._heed_signals()
            for _ in self._ended():
                pass
            self._clock.sleep(_LOOK_SECONDS)

    def _conclude(self) -> None:
        tally, path = self._tally, shlex.quote(str(self._fleet.path))
        until = "" if self._until is None else f" --until {shlex.quote(self._until)}"
        if self._signals:
            raise Interrupted(
                "interrupted; what was finished stays finished",
                remedy=f"Go on with: planrunner fleet run {path}{until}",
            )
        if tally.failed:
            raise StepFailed(
                f"failed: {_named(tally.failed)}",
                remedy=f"Each says why in: planrunner fleet status {path}\n"
                f"Once mended, go on with: planrunner fleet run {path}{until}",
            )
        if tally.waiting:
            raise DecisionNeeded(
                f"waiting for somebody's word: {_named(tally.waiting)}",
                remedy=f"For what is told by: planrunner fleet status {path}\n"
                f"Approve with: planrunner fleet approve {path} --step STEP [MEMBER…]",
            )
        if tally.gate is not None:
            raise DecisionNeeded(
                f"wave {tally.gate.name} ({len(tally.gate.members)} members) waits for approval",
                remedy=f"planrunner fleet approve {path} {tally.gate.name}{until}",
            )

    @contextmanager
    def _listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        heard = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        former = {number: signal.signal(number, self._receive) for number in heard}
        try:
            yield
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)

    def _receive(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1

    def _heed_signals(self) -> None:
        """Pass each signal on; a run that gets a second one stops at once."""
        while self._passed_on < min(self._signals, 2):
            self._passed_on += 1
            self._tell("stopping: each member at work is asked to stop where it can go on")
            # Who began it stops it; it is met again.
            self._working = [work for work in self._working if not isinstance(work, Stranger)]
            for work in self._working:
                work.stop()


def _head(ended: Ended) -> str:
    return (ended.told or words_of(ended.code or 0)).partition("\n")[0]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"
