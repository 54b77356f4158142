"""A pattern of a plan is tried, but not for ever."""

from __future__ import annotations

import time

import pytest

from planrunner.loading.matching import BadPattern, Patience, TooSlow, check


def test_a_pattern_has_to_match_the_whole_text() -> None:
    assert Patience().matches("[a-z]{2}(-[a-z]+)+-[0-9]", "us-gov-west-1")
    assert not Patience().matches("[a-z]", "ab")


@pytest.mark.parametrize("pattern", ["(", "[a", "*a", "a{3,1}", r"\p{Nope}", "(?1)", "x" * 501])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(BadPattern):
        check(pattern)


@pytest.mark.parametrize("pattern", ["((a{1000}){1000}){1000}", "a{99999999}", "(a{5000}){3,}"])
def test_repeats_that_the_compiler_would_write_out_are_refused(pattern: str) -> None:
    with pytest.raises(BadPattern, match="repeats"):
        check(pattern)


def test_a_pattern_that_backtracks_is_stopped() -> None:
    with pytest.raises(TooSlow, match="too long"):
        Patience().matches("(a|aa)+$", "a" * 60 + "!")


def test_all_patterns_of_a_plan_share_their_time() -> None:
    patience = Patience(seconds=0.2)
    with pytest.raises(TooSlow):
        patience.matches("(a|aa)+$", "a" * 60 + "!")
    with pytest.raises(TooSlow):
        patience.matches("(b|bb)+$", "b" * 60 + "!")
    began = time.process_time()
    for letter in "cdefghijkl":
        with pytest.raises(TooSlow):
            patience.matches(f"({letter}|{letter}{letter})+$", letter * 60 + "!")
    # Processor time, of which ten patterns alone would take two seconds.
    assert time.process_time() - began < 1
