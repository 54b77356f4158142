"""The points around a switch of traffic by PgBouncer: broken off at each, its clients never see an error."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.acceptance.test_switch import Traffic, bench, cut_over, followed, traffic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.bouncer import Bench

# In the order in which a cutover passes them; the COMMIT lies between.
HOLDING = ("switch.before_fence", "switch.guardian_started", "switch.guarded", "switch.paused", "switch.held")
LEADING = (
    *(
        "switch.after_commit",
        "switch.before_replace",
        "switch.rewritten",
        "switch.reloaded",
        "switch.resumed",
    ),
    "switch.switched",
)
MODES = ("kill", "raise")
# In one turn each point is broken off one way, in the other the other way.
CASES = [
    (turn, point, MODES[(place + turn) % 2])
    for turn in range(2)
    for place, point in enumerate((*HOLDING, *LEADING))
]


@dataclass
class Pool:
    """Both servers behind a pooler, with a client that writes through it; what broke the cutover off so far."""

    traffic: Traffic
    client: Bench
    cases: list[str] = field(default_factory=list)

    def broken_off(self, point: str, mode: str) -> None:
        self.cases.append(f"{point}:{mode}")
        code = -signal.SIGKILL if mode == "kill" else 1
        said = cut_over(self.traffic, failpoints=f"{point}:{mode}", code=code)
        assert "Traceback" not in said
        if point in HOLDING:
            # Whoever held the clients back lets them go.
            self.client.wait_for(20)

    def finish(self) -> None:
        cut_over(self.traffic)
        self.client.wait_for(50)


@pytest.fixture(scope="module")
def pool(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """A cutover that the cases of one turn break off one by one; in the end every transaction is on the target."""
    with traffic(tmp_path_factory.mktemp(f"turn_{request.param}")) as scene:
        followed(scene)
        with bench(scene, "simple") as client:
            found = Pool(scene, client)
            yield found
            found.finish()
        assert client.failed == 0, f"after {found.cases}: {client.output}"
        assert scene.rows(scene.target) == client.acknowledged, found.cases


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("pool", "case"),
    # All cases of a turn are one migration's, so one worker's; in the second each is broken off the other way.
    [
        pytest.param(
            turn,
            (point, mode),
            marks=[pytest.mark.xdist_group(f"pool-{turn}"), *([pytest.mark.soak] if turn else [])],
            id=f"{turn}-{point}-{mode}",
        )
        for turn, point, mode in CASES
    ],
    indirect=["pool"],
    # Else the migration would be made anew for each case.
    scope="module",
)
def test_a_switch_broken_off_costs_no_client_an_error(pool: Pool, case: tuple[str, str]) -> None:
    pool.broken_off(*case)
