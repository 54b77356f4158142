"""A state file of every older format, as the planrunner of that time wrote it, and what becomes of it."""

from pathlib import Path

import pytest

from planrunner.model import StepStatus
from planrunner.state.codec import from_json, to_json
from planrunner.state.record import FORMAT_VERSION

STATES = Path(__file__).parents[2] / "data" / "states"


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION))
def test_an_older_state_is_read_and_written_as_the_newest(version: int) -> None:
    state = from_json((STATES / f"format-{version}.json").read_text("utf-8"))
    assert state.format_version == FORMAT_VERSION
    assert from_json(to_json(state)) == state
    assert {step.status for step in state.steps.values()} == {StepStatus.DONE, StepStatus.FAILED}
