"""Single breaks of a migration out of the account, each one a migration of its own.

Beside the module that breaks one off again and again: there is one stand-in for RDS at a time.
"""

from __future__ import annotations

import boto3
import pytest

from tests.faults.test_points_aws import CASES, ENDURED, MODES, RUN, Account, account


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


def attach_their_own(found: Account) -> None:
    """A group of the owner's rules the instance, and has been in force for long."""
    api = found.walled.scene.api
    family = api.world.main.default_db_parameter_group_details()[0]
    given = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": api.region}
    rds = boto3.client("rds", endpoint_url=api.endpoint_url, **given)
    rds.create_db_parameter_group(
        DBParameterGroupName="own", DBParameterGroupFamily=family, Description="theirs"
    )
    api.world.main.db_parameter_group_name = "own"


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("point", ["rds.before_set_back_call", "rds.after_set_back_call"])
@pytest.mark.parametrize("mode", MODES)
def test_a_group_of_the_owner_s_is_set_back_whatever_breaks_off(point: str, mode: str) -> None:
    with account() as found:
        attach_their_own(found)
        api = found.walled.scene.api
        child = found.walled.run(*RUN)
        assert child.returncode == 0, child.stdout[-3000:] + child.stderr
        group = api.world.backend.db_parameter_groups["own"].parameters
        assert group["rds.logical_replication"]["ParameterValue"] == "1"
        found.verb = "cleanup"
        found.broken_off(point, mode)
        child = found.walled.run("--yes", verb="cleanup")
        assert child.returncode == 0, child.stdout[-3000:] + child.stderr
        assert group["rds.logical_replication"]["ParameterValue"] == "0"
        assert api.reboots == 1


@pytest.mark.soak
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mode", MODES)
def test_a_reboot_that_aws_refused_is_asked_for_again(mode: str) -> None:
    with account() as found:
        api = found.walled.scene.api
        api.denied.add("RebootDBInstance")
        found.broken_off("rds.reboot_withdrawn", mode)
        assert api.reboots == 0
        api.denied.clear()
        found.finish()
