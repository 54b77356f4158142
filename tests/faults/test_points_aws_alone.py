"""Single breaks of a migration out of the account, each one a migration of its own.

Beside the module that breaks one off again and again: there is one stand-in for RDS at a time.
"""

from __future__ import annotations

import pytest

from tests.faults.test_points_aws import CASES, ENDURED, RUN, account


@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", ENDURED)
def test_an_error_once_the_way_is_open_is_told_and_ends_no_run(point: str) -> None:
    with account() as found:
        child = found.walled.run(*RUN, "--until", "logical", failpoints=f"{point}:raise")
        assert child.returncode == 0, child.stdout + child.stderr
        assert f"nobody was let in at the source: failpoint {point} was reached" in child.stdout
        assert found.walled.calls("AuthorizeSecurityGroupIngress") == 1
        # It is on record all the same, and goes with the cleanup.
        cleaned = found.walled.run("--yes", verb="cleanup")
        assert cleaned.returncode == 0, cleaned.stdout + cleaned.stderr
        assert found.walled.ranges() == ["198.51.100.0/24"]


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("verb", "point", "mode"), [case[1:] for case in CASES])
def test_one_break_alone_changes_nothing(verb: str, point: str, mode: str) -> None:
    with account() as found:
        found.turn_to(verb)
        found.broken_off(point, mode)
        found.finish()
