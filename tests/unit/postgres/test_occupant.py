"""Which cluster answers at an address is learnt once and held against every later session."""

from __future__ import annotations

import pytest

from planrunner.engine.passing import failure_class
from planrunner.errors import ConnectionFailed, ServerReplaced
from planrunner.flow import FailureClass
from planrunner.model import Side
from planrunner.postgres.occupant import Occupant


def test_the_same_cluster_is_recognised() -> None:
    occupant = Occupant(side=Side.SOURCE)
    for _ in range(2):
        occupant.recognise("7001", recovering=False)


def test_another_cluster_is_refused_and_not_tried_again() -> None:
    occupant = Occupant(side=Side.TARGET)
    occupant.recognise("7001", recovering=False)
    with pytest.raises(
        ServerReplaced, match=r"target: another server .* cluster 7002, until now it was 7001"
    ) as caught:
        occupant.recognise("7002", recovering=False)
    assert failure_class(caught.value) is None
    occupant.recognise("7001", recovering=False)


def test_a_standby_where_a_primary_was_is_worth_another_attempt() -> None:
    occupant = Occupant(side=Side.SOURCE)
    occupant.recognise("7001", recovering=False)
    with pytest.raises(ConnectionFailed, match="a standby answers") as caught:
        occupant.recognise("7001", recovering=True)
    assert failure_class(caught.value) is FailureClass.CONNECTION


def test_a_standby_that_is_promoted_meanwhile_is_taken_as_the_primary_it_is() -> None:
    occupant = Occupant(side=Side.SOURCE)
    occupant.recognise("7001", recovering=True)
    occupant.recognise("7001", recovering=False)
