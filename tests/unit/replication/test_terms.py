from __future__ import annotations

import pytest

from planrunner.replication.terms import Budget, Terms, terms

GB = 1 << 30


def test_without_options_nothing_is_given_up() -> None:
    assert terms({}) == Terms()
    assert terms({}).budget.give_up is None
    assert terms({}).budget.warn == 16 * GB


def test_one_size_is_where_slots_are_given_up_and_its_half_is_told() -> None:
    assert terms({"max_wal_retained": "50GB"}).budget == Budget(warn=25 * GB, give_up=50 * GB)


def test_the_long_form_names_each_limit() -> None:
    given = {"warn": "20GB", "pause": "40GB", "give_up": "50GB"}
    assert terms({"max_wal_retained": given}).budget == Budget(warn=20 * GB, pause=40 * GB, give_up=50 * GB)


@pytest.mark.parametrize(
    ("given", "warn"),
    [({"pause": "4GB"}, 2), ({"give_up": "8GB"}, 4), ({"pause": "4GB", "give_up": "8GB"}, 2)],
)
def test_a_long_form_without_warn_tells_at_half_of_its_least_limit(given: dict[str, str], warn: int) -> None:
    assert terms({"max_wal_retained": given}).budget.warn == warn * GB


@pytest.mark.parametrize(
    ("budget", "problem"),
    [
        (Budget(warn=1, pause=2, give_up=3), None),
        (Budget(warn=2, give_up=1), "warn (2 B) is above give_up (1 B)"),
        (Budget(warn=1, pause=5, give_up=3), "pause (5 B) is above give_up (3 B)"),
    ],
)
def test_limits_in_the_wrong_order_are_a_problem(budget: Budget, problem: str | None) -> None:
    assert budget.problem() == problem
