"""What is shown of names: everything but what moves the cursor, turns the line or ends it."""

from __future__ import annotations

import json

import pytest

from planrunner.shown import in_one_line, visible
from tests.faults.hostile_names import EVERY, Hostile


@pytest.mark.parametrize("indent", [None, 2])
def test_json_stays_the_same_json(indent: int | None) -> None:
    told = {hostile.name: [hostile.name, "\U000e0001"] for hostile in EVERY}
    written = json.dumps(told, ensure_ascii=False, indent=indent)
    assert json.loads(visible(written)) == told


@pytest.mark.parametrize("hostile", EVERY, ids=lambda hostile: hostile.why)
def test_no_name_leaves_its_line(hostile: Hostile) -> None:
    name = hostile.name
    shown = in_one_line(name)
    assert len(shown.splitlines()) == (1 if name else 0)
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_plain_text_stays_as_it_is() -> None:
    text = "a\tb\n\n  Größe 日本語 🐘\u00a0\n"
    assert visible(text) == text
