"""Two who repeat what they were told: a webhook that refuses, and an AWS that lets nobody in."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

# As AWS words them; the second shows the request as it should have been signed, whose headers hold the session's token.
DENIED = (
    "User: arn:aws:sts::123456789012:assumed-role/migrator/{key} is not authorized to perform:"
    " secretsmanager:GetSecretValue because no identity-based policy allows it; the session was {token}"
)
UNSIGNED = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key"
    " and signing method.\n\nThe Canonical String for this request should have been\n'POST\n/\n\n"
    "content-type:application/x-amz-json-1.1\nhost:{host}\nx-amz-date:20260101T000000Z\n"
    "x-amz-security-token:{token}\n\ncontent-type;host;x-amz-date;x-amz-security-token\n0123'\n"
)
ANSWERS = {"/denied": ("AccessDeniedException", DENIED), "/unsigned": ("InvalidSignatureException", UNSIGNED)}


@contextmanager
def webhook(told: list[str]) -> Iterator[int]:
    """A webhook that answers with what it was sent, and refuses it; what was told it is kept."""

    class Answer(_Quiet):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.append(body.decode())
            self.send_response(403, str(self.headers.get("Authorization", "")))
            self.end_headers()
            self.wfile.write(self.path.encode() + body)

    with _served(Answer) as port:
        yield port


@contextmanager
def refusing() -> Iterator[str]:
    """An AWS whose answer repeats the credentials of who asks; ``/denied`` and ``/unsigned`` say how."""

    class Answer(_Quiet):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            code, words = next(v for k, v in ANSWERS.items() if self.path.startswith(k))
            # The way of signing, then the key's id before the first slash.
            key = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            token = self.headers.get("X-Amz-Security-Token", "none")
            self._refuse(code, words.format(key=key[-4:], token=token, host=self.headers["Host"]))

        def _refuse(self, code: str, words: str) -> None:
            if "json" in self.headers.get("Content-Type", ""):
                body = json.dumps({"__type": code, "message": words})
            else:
                short = {"AccessDeniedException": "AccessDenied"}.get(code, "SignatureDoesNotMatch")
                body = (
                    f"<ErrorResponse><Error><Code>{short}</Code><Message>{escape(words)}</Message></Error>"
                    "<RequestId>r</RequestId></ErrorResponse>"
                )
            self.send_response(403)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

    with _served(Answer) as port:
        yield f"http://127.0.0.1:{port}"


class _Quiet(BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def _served(answer: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
