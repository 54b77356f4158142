"""Starts work on a plan: one process at a time, with its journal open and its report written."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planrunner import registry
from planrunner.engine.events import Journal
from planrunner.engine.mirror import mirrored
from planrunner.engine.report import write_report
from planrunner.engine.runner import run_plan
from planrunner.engine.setup import Setup
from planrunner.errors import PlanrunnerError
from planrunner.state.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from planrunner.engine.context import Connect
    from planrunner.engine.events import Listener
    from planrunner.engine.files import RunFiles
    from planrunner.engine.runner import RunOptions
    from planrunner.model import Plan
    from planrunner.ports import Clock, StateHome
    from planrunner.state.record import State
    from planrunner.step import Step


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the command line plugs into the engine; ``listeners`` hear every event.

    ``flags`` are the options that lead to the same plan and state again; ``home`` keeps the state, None: a file
    beside the plan.
    """

    connect: Connect
    clock: Clock
    listeners: tuple[Listener, ...] = ()
    find: Callable[[str], Step] = registry.step
    flags: tuple[str, ...] = ()
    home: StateHome | None = None


def launch(plan: Plan, files: RunFiles, options: RunOptions, parts: Parts) -> State:
    """Run the plan under its lock; the report is written however the run ends.

    LockedByAnother when another process works on the plan; everything ``run_plan`` raises.
    """
    with at_work(plan, files, parts) as setup:
        return run_plan(setup, options)


@contextmanager
def at_work(plan: Plan, files: RunFiles, parts: Parts, *, readable: bool = True) -> Iterator[Setup]:
    """Hold the plan's lock and journal for the length of the block, and write the report at its end.

    StateUnfit when the state can't be read, unless ``readable`` says that it need not be.
    """
    store = parts.home or FileStore(files.state)
    with store.locked(parts.clock), mirrored(store, files.events) as mirror:
        listeners = parts.listeners if mirror is None else (mirror.hear, *parts.listeners)
        journal = Journal(files.events, clock=parts.clock, listeners=listeners)
        if readable:
            store.load()
        setup = Setup(
            plan=plan,
            store=store,
            journal=journal,
            connect=parts.connect,
            clock=parts.clock,
            find=parts.find,
            flags=parts.flags,
            home=store,
        )
        setup.interruption.onward = setup.command("run"), setup.command("cleanup")
        try:
            yield setup
        except BaseException:
            # What stopped the work is the news, not that its report can't be written either.
            with suppress(PlanrunnerError):
                write_report(plan, files, store, flags=parts.flags)
            raise
        else:
            write_report(plan, files, store, flags=parts.flags)
        finally:
            journal.close()
