"""Every point at which something was just changed, or is about to be: killed there, raised there, frozen there.

The cases of one line break one migration off again and again, each further on; at its end everything must be there,
nothing twice, and nothing left behind. ``make soak`` breaks a migration of its own off at each.
"""

from __future__ import annotations

import re
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import planrunner
from tests.acceptance import test_crash_anywhere
from tests.acceptance.helpers import contents
from tests.faults.broken import Way, on_the_way
from tests.faults.points import ELSEWHERE, ENDURED, FROZEN, REACHED
from tests.faults.routes import ROUTES
from tests.faults.scene import PATIENCE_SECONDS, servers, wait_stopped
from tests.side_effects import Sources

if TYPE_CHECKING:
    from collections.abc import Iterator

    from planrunner.sandbox.servers import PostgresServer

CASES_OF_A_LINE = 8
MODES = ("kill", "raise")
# What is broken off there in the same ways, at both crossings.
ANYWHERE = {
    ("whole" if verb == "cutover" else verb, point, mode) for verb, point, mode in test_crash_anywhere.CASES
}


def _lines() -> list[tuple[tuple[str, int, int], str, str]]:
    """(route, number of the line, which of both turns), point, mode: each point once by either mode."""
    found = []
    for route, points in REACHED.items():
        count = -(-len(points) // CASES_OF_A_LINE)
        for number in range(count):
            for turn in range(2):
                for place, point in enumerate(points[number::count]):
                    mode = MODES[(place + turn) % 2]
                    endured = mode == "raise" and point in ENDURED
                    if not endured and (route, point, mode) not in ANYWHERE:
                        found.append(((route, number, turn), point, mode))
    return found


LINES = _lines()
ALONE = [(route, point, mode) for (route, _, _), point, mode in LINES]
# Before it has the lock on the target a runner holds nothing that could be taken over.
UNLOCKED = {"lock.signed", "lock.row_signed", "journal.opened", "secret.before_command"}
STOPS = [(route, point) for route, points in REACHED.items() for point in points if point not in UNLOCKED]


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    with servers() as both:
        yield both


@pytest.fixture(scope="module")
def way(
    pair: tuple[PostgresServer, PostgresServer],
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Way]:
    """A migration that the cases of one line break off in turn; at the end it must come through."""
    route, number, turn = request.param
    name = f"{route}_{number}_{turn}"
    with on_the_way(pair, tmp_path_factory.mktemp(name), name, ROUTES[route]) as found:
        yield found
        found.finish()


def broken_off(way: Way, point: str, mode: str) -> None:
    code, said = way.armed(point, mode)
    if mode == "kill":
        assert code == -signal.SIGKILL, f"{way.cases}: {said}"
        return
    assert code == ENDURED.get(point, 1), f"{way.cases}: {said}"
    assert f"failpoint {point} was reached" in " ".join(said.split()) or point in ENDURED, said
    assert "Traceback" not in said


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("way", "case"),
    [
        pytest.param(
            line,
            (point, mode),
            marks=[
                # All cases of a line are one migration's, so one worker's.
                pytest.mark.xdist_group("-".join(map(str, line))),
                # The other way of breaking off at the same point.
                *([pytest.mark.soak] if line[2] else []),
            ],
            id=f"{line[0]}-{line[1]}{'ab'[line[2]]}-{point}-{mode}",
        )
        for line, point, mode in LINES
    ],
    indirect=["way"],
    # Else the migration would be made anew for each case.
    scope="module",
)
def test_a_run_broken_off_on_its_way_can_go_on(way: Way, case: tuple[str, str]) -> None:
    broken_off(way, *case)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("route", "point"), [(r, point) for r, points in REACHED.items() for point in points if point in ENDURED]
)
def test_an_error_that_is_no_reason_to_end_a_run_does_not_end_it(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, route: str, point: str
) -> None:
    with on_the_way(pair, tmp_path, f"endured_{route}", ROUTES[route]) as way:
        broken_off(way, point, "raise")
        way.finish()


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("route", "point", "mode"), ALONE)
def test_a_run_broken_off_once_loses_nothing(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, route: str, point: str, mode: str
) -> None:
    with on_the_way(pair, tmp_path, f"alone_{route}", ROUTES[route]) as way:
        broken_off(way, point, mode)
        way.finish()


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("route", "point"),
    [pytest.param(*case, marks=[] if case in FROZEN else pytest.mark.soak) for case in STOPS],
)
def test_a_runner_frozen_there_changes_nothing_after_another_took_over(
    pair: tuple[PostgresServer, PostgresServer], tmp_path: Path, route: str, point: str
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    with on_the_way(pair, here, f"frozen_{route}", ROUTES[route]) as way:
        verb = way.route.verb
        child = way.one.start(verb, *way.route.options, failpoints=f"{point}#1:stop")
        try:
            wait_stopped(child)
            way.cases.append(f"{point}:stop")
            shutil.copytree(here, there, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
            taker = way.one.start(verb, *way.route.options, "--take-over", folder=there)
            said, _ = taker.communicate(timeout=PATIENCE_SECONDS)
            assert taker.returncode == 0, said
            way.assert_whole(there)
            before = contents(way.one.ours), contents(way.one.theirs), sorted(way.one.left())
            child.send_signal(signal.SIGCONT)
            said, _ = child.communicate(timeout=PATIENCE_SECONDS)
        finally:
            child.send_signal(signal.SIGCONT)
            child.kill()
            child.communicate()
        # Who finds that nothing is left to be done has done nothing.
        assert child.returncode != 3, said
        assert child.returncode != 0 or verb != "run", said
        assert "Traceback" not in said
        assert (contents(way.one.ours), contents(way.one.theirs), sorted(way.one.left())) == before


def test_every_point_of_the_syntax_tree_is_broken_off_at() -> None:
    points = {point.name for point in Sources.of(Path(planrunner.__file__).parent).points()}
    plain = {name for name in points if "*" not in name and "|" not in name} | {"journal", "finding"}
    reached = {point for found in REACHED.values() for point in found}
    assert sorted(plain - reached - set(ELSEWHERE)) == []
    # Those of actions are put together: their step's id, their name.
    assert (
        sorted(
            r for r in reached | set(ELSEWHERE) if r not in plain and not re.search(r"\.(before|after)$", r)
        )
        == []
    )
    assert sorted(set(ELSEWHERE) & reached) == []


@pytest.mark.parametrize("point", sorted(ELSEWHERE))
def test_a_point_that_no_route_reaches_is_named_where_it_is_broken_off(point: str) -> None:
    file, reason = ELSEWHERE[point]
    assert reason
    assert point in (Path(__file__).parents[1] / file).read_text("utf-8")


def test_the_matrix_is_as_large_as_it_is_meant_to_be() -> None:
    each_once = [line for (_, _, turn), *line in LINES if not turn]
    assert len(each_once) + len(FROZEN) + len(test_crash_anywhere.CASES) >= 180
    assert len(LINES) > 2 * len(each_once) - 20
    assert set(FROZEN) <= set(STOPS)
