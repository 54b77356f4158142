"""Where the states of a fleet's members are: files of its folder, or where every machine reaches them."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, TypeAlias

from planrunner.fleet.portable import TARGET
from planrunner.state.file import FileStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from planrunner.fleet.folder import Folder
    from planrunner.fleet.model import Fleet, Member
    from planrunner.ports import StateHome

# A member's home, its line open for the length of the block.
HomeOf: TypeAlias = "Callable[[Member], AbstractContextManager[StateHome]]"


def beside(folder: Folder) -> HomeOf:
    """The homes of a fleet that keeps its states in its folder."""
    return lambda member: nullcontext(FileStore(folder.state(member.name)))


def place(fleet: Fleet, folder: Folder, member: str) -> str:
    """What --state says for a member."""
    if fleet.state is None:
        return str(folder.state(member))
    return TARGET if fleet.state == TARGET else f"{fleet.state}{member}.state.json"
