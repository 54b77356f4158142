"""The scene of a test as another process sees it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.integration.switching.conftest import Scene

if TYPE_CHECKING:
    from collections.abc import Sequence


def scene_of(words: Sequence[str]) -> Scene:
    """From the ports and passwords of both servers, and the pooler's folder."""
    folder = Path(words[4])
    ini = dict(
        line.split(" = ", 1) for line in (folder / "pgbouncer.ini").read_text().splitlines() if " = " in line
    )
    source: Any = SimpleNamespace(port=int(words[0]), password=words[1])
    target: Any = SimpleNamespace(port=int(words[2]), password=words[3])
    bouncer: Any = SimpleNamespace(
        admin=f"postgresql://admin@127.0.0.1:{ini['listen_port']}/pgbouncer?sslmode=disable",
        config=folder / "pgbouncer.ini",
    )
    return Scene(source=source, target=target, bouncer=bouncer)
