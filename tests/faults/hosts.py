"""Network namespaces as hosts of their own: a bridge on this machine, and a line from it to each."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NET = "10.213.77"
GATEWAY = f"{_NET}.1"
_BRIDGE = "prpool0"


@cache
def can_be_made() -> bool:
    """Root may make namespaces and lines where the machine lets it."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    try:
        with hosts("probe"):
            return True
    except subprocess.CalledProcessError:
        return False


@dataclass(frozen=True)
class Host:
    """One namespace: its address, and how its line is cut."""

    name: str
    address: str
    line: str

    def command(self, *words: str) -> list[str]:
        """The command as it is run there."""
        return ["ip", "netns", "exec", self.name, *words]

    def cut(self) -> None:
        """Nothing passes from now on, and nobody is told."""
        _ip("link", "set", self.line, "nomaster")
        _ip("link", "set", self.line, "down")


@contextmanager
def hosts(*names: str) -> Iterator[list[Host]]:
    """One for each name; this machine is at ``GATEWAY`` for them. All are gone at the end of the block."""
    with ExitStack() as stack:
        _ip("link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_gone, "link", "del", _BRIDGE)
        _ip("addr", "add", f"{GATEWAY}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        yield [_host(stack, name, number) for number, name in enumerate(names, 2)]


def _host(stack: ExitStack, name: str, number: int) -> Host:
    made = Host(name=f"prpool-{name}", address=f"{_NET}.{number}", line=f"prpool{number}")
    _ip("netns", "add", made.name)
    stack.callback(_gone, "netns", "del", made.name)
    _ip("link", "add", made.line, "type", "veth", "peer", "name", "eth0", "netns", made.name)
    stack.callback(_gone, "link", "del", made.line)
    _ip("link", "set", made.line, "master", _BRIDGE)
    _ip("link", "set", made.line, "up")
    for words in (("addr", "add", f"{made.address}/24", "dev", "eth0"), ("link", "set", "eth0", "up")):
        _ip("-n", made.name, *words)
    _ip("-n", made.name, "link", "set", "lo", "up")
    return made


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


def _gone(*words: str) -> None:
    with suppress(subprocess.CalledProcessError):
        _ip(*words)
