"""A state store that lives as long as its process, for previews and tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planrunner.state.codec import from_json, to_json
from planrunner.state.succession import refuse_unrelated

if TYPE_CHECKING:
    from planrunner.state.record import State


class MemoryStore:
    """Keeps the text a file would hold, so that what can't be written can't be kept here either."""

    def __init__(self) -> None:
        self._text: str | None = None

    def load(self) -> State | None:
        """The last saved state, None when there never was one."""
        return None if self._text is None else from_json(self._text)

    def save(self, state: State) -> None:
        """Make ``state`` the last saved one."""
        text = to_json(state)
        refuse_unrelated(self.load(), state, "the state in memory")
        self._text = text
