"""Has tables surveyed by the pool: what is bulk work of a comparison.

It only reads. So it holds neither lease nor shift, goes on beside a run that does, and leaves nothing on record: a
comparison that was broken off begins anew. The rows that differ are found, and mended, by whoever asked, for that needs
the barrier and the right to write.
"""

from __future__ import annotations

import secrets
import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from planrunner.errors import ServerError
from planrunner.replication import tasks
from planrunner.replication.errands import Errands
from planrunner.replication.lanes import Lanes
from planrunner.replication.takeover import end_stale_sessions
from planrunner.replication.tasks import Site, SurveyTask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.replication.regions import Survey, Tract
    from planrunner.replication.views import View
    from planrunner.replication.workspace import Workspace

_LOOKS, _QUIET_LOOKS, _LOOK_SECONDS = 20, 3, 0.2


class Surveyors:
    """Survey tables wherever the pool works; ``lanes`` are sessions of this process. Made by ``at_work``."""

    def __init__(self, workspace: Workspace, site: Site) -> None:
        self.lanes = Lanes(workspace.source, workspace.target)
        self._site = site
        self._over = threading.Event()
        self._errands = Errands(workspace, self.check)

    def survey(self, *tracts: Tract, moving: bool, view: View | None = None) -> tuple[Survey, ...]:
        """As ``regions.survey`` each, in a task together, as of ``view``; QueryFailed when a side can't be read."""
        found: tuple[Survey, ...] = self._errands.done(
            SurveyTask(site=self._site, tracts=tracts, moving=moving, view=view)
        )
        return found

    def check(self) -> None:
        """CancelledError once nobody wants to know any more."""
        if self._over.is_set():
            raise CancelledError

    def stop(self) -> None:
        """Whoever waits for a survey elsewhere, or is about to ask for one, is done."""
        self._over.set()


@contextmanager
def at_work(workspace: Workspace) -> Iterator[Surveyors]:
    """For the length of the block, after which every session is closed; left by an error, also those of workers.

    PoolUnfit and PoolLost as ``Pool.open``.
    """
    told = workspace.pool.open()
    if told is not None:
        workspace.tell(told, {})
    word = secrets.token_hex(4)
    site = Site(
        source=workspace.source.endpoint,
        target=workspace.target.endpoint,
        plan_id=workspace.names.plan_id,
        # Two comparisons may go on at a time, and neither ends the other's sessions.
        kind=f"survey/{word}",
        shift=word,
        code=workspace.pool.code,
    )
    surveyors = Surveyors(workspace, site)
    if not workspace.pool.away:
        with tasks.present(site.shift, surveyors.lanes):
            yield surveyors
        return
    try:
        yield surveyors
    except BaseException:
        _call_off(workspace, site)
        raise
    finally:
        surveyors.lanes.close()


def _call_off(workspace: Workspace, site: Site) -> None:
    """End what workers have in hand: it would be read to its end for nobody."""
    quiet = 0
    # Who had a task already may have opened its sessions only since the last look.
    for _ in range(_LOOKS):
        ended = 0
        for server in (workspace.source, workspace.target):
            # Away, it reads nothing for anybody; and what went wrong is told already.
            with suppress(ServerError):
                ended += end_stale_sessions(server, site.crew)
        quiet = 0 if ended else quiet + 1
        if quiet == _QUIET_LOOKS:
            return
        workspace.clock.sleep(_LOOK_SECONDS)
