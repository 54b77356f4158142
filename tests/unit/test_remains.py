"""What a process that is stopped at once says it leaves behind."""

import subprocess
import sys

from planrunner import remains


def test_what_a_server_shows_now_replaces_what_it_showed() -> None:
    remains.seen("source", "test slot", "pr_1_", ["pr_1_g1", "pr_1_v"])
    remains.made("source", "test slot", "pr_1_g10")
    remains.seen("source", "test slot", "pr_1_g", ["pr_1_g10"])
    remains.gone("source", "test slot", "pr_1_v")
    left = [line for line in remains.listed() if "test slot" in line]
    assert left == ["source: test slot pr_1_g10, as last seen; it stays"]
    remains.seen("source", "test slot", "pr_", ())


def test_children_are_named_and_only_tools_are_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        found = {each.pid: each for each in remains.children()}
        assert child.pid in found
        assert not found[child.pid].ours_to_end
        assert any(f"process {child.pid}; left to end by itself" in line for line in remains.listed())
    finally:
        child.kill()
        child.communicate()
    assert child.pid not in {each.pid for each in remains.children()}
