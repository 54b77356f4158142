"""What is mutated, and by which tests each part is held: those that know it best come first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_STATE = ("tests/unit/state", "tests/contract/test_state_store.py")
_SERVERS = "tests/integration/replication"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module, its tests in the order in which they run, and how many mutants are drawn (None: all)."""

    path: str
    tests: tuple[str, ...]
    sample: int | None = None

    @property
    def name(self) -> str:
        """The module without its folder."""
        return Path(self.path).stem


def _state(name: str, *first: str) -> Part:
    return Part(
        path=f"planrunner/state/{name}.py",
        tests=(*(f"tests/unit/state/test_{each}.py" for each in first), *_STATE),
    )


def _served(name: str, *tests: str, sample: int) -> Part:
    return Part(path=f"planrunner/replication/{name}.py", tests=tests, sample=sample)


PARTS = (
    _state("codec", "codec", "formats"),
    _state("control", "control"),
    _state("file", "file"),
    _state("lease", "lease"),
    _state("lock", "lock"),
    _state("memory"),
    _state("record", "record", "codec"),
    _state("remote", "remote"),
    _state("succession", "file", "remote"),
    _state("upgrade", "formats"),
    _served("ledger", f"{_SERVERS}/test_ledger.py", sample=60),
    _served("takeover", f"{_SERVERS}/test_workspace.py", sample=20),
    _served("workspace", f"{_SERVERS}/test_workspace.py", sample=40),
    _served(
        "copy",
        "tests/unit/replication/test_copy_statements.py",
        f"{_SERVERS}/test_courier.py",
        f"{_SERVERS}/test_copy.py::test_chunks_of_a_table_become_one_unit",
        f"{_SERVERS}/test_copy.py::test_the_pace_that_is_told_adds_up_to_what_was_copied",
        f"{_SERVERS}/test_copy.py::test_without_psql_the_copy_goes_over_a_session_of_our_own",
        sample=20,
    ),
    _served("cutover", f"{_SERVERS}/test_cutover.py", sample=20),
    _served("crossing", f"{_SERVERS}/test_crossing.py", f"{_SERVERS}/test_cutover.py", sample=20),
    _served("fence", f"{_SERVERS}/test_fence.py", f"{_SERVERS}/test_crossing.py", sample=20),
)
