"""The ports of throw-away servers: none is given twice while a server may come back to it."""

import os
import socket
import subprocess
import sys

import pytest

from planrunner.errors import UsageError
from planrunner.sandbox import local_ports
from planrunner.sandbox.local_ports import HOST, Claim


def test_a_claimed_port_is_nobody_elses_although_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    claim = Claim()
    monkeypatch.setattr(local_ports, "_PORTS", range(claim.port, claim.port + 1))
    with pytest.raises(UsageError, match="no free port"):
        Claim()
    # Another process is kept away too.
    script = (
        "import sys; from planrunner.sandbox import local_ports;"
        " local_ports._PORTS = range(int(sys.argv[1]), int(sys.argv[1]) + 1); local_ports.Claim()"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    other = subprocess.run(
        [sys.executable, "-c", script, str(claim.port)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "no free port" in other.stderr
    claim.release()
    claim.release()
    again = Claim()
    assert again.port == claim.port
    again.release()


def test_a_port_that_somebody_listens_on_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        listener.listen()
        port = listener.getsockname()[1]
        monkeypatch.setattr(local_ports, "_PORTS", range(port, port + 1))
        # Nobody takes up what is dialled here: only so many fit into the queue.
        monkeypatch.setattr(local_ports, "_ATTEMPTS", 3)
        with pytest.raises(UsageError, match="no free port"):
            Claim()
