"""CloudWatch under the rules that moto leaves out: refused as IAM refuses, and figures told in pages."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from moto.cloudwatch.models import cloudwatch_backends
from moto.core.models import DEFAULT_ACCOUNT_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

# What a signature for CloudWatch names as its service.
SERVICE = "/monitoring/"


class CloudWatch:
    """Stands between boto3 and moto's CloudWatch; ``page`` is how many figures an answer holds, None for all.

    ``denied`` holds the operations to refuse; ``calls`` counts what was asked.
    """

    def __init__(self, region: str, denied: set[str]) -> None:
        self.page: int | None = None
        self.calls: list[str] = []
        self._region = region
        self._denied = denied

    def answer(
        self, environ: dict[str, Any], start_response: Any, forward: Callable[[Any, Any], Iterable[bytes]]
    ) -> Iterable[bytes]:
        """Answer one request (WSGI) in the JSON protocol, which boto3 speaks with CloudWatch."""
        operation = environ.get("HTTP_X_AMZ_TARGET", "").rpartition(".")[2]
        self.calls.append(operation)
        if operation in self._denied:
            return _refused(start_response, operation, self._region)
        if operation != "GetMetricData" or self.page is None:
            return forward(environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        first = int(json.loads(body).get("NextToken") or 0)
        whole = b"".join(forward(environ, lambda *_: None))
        page = json.dumps(_paged(json.loads(whole)["MetricDataResults"], first, self.page)).encode()
        start_response("200 OK", [("Content-Type", "application/x-amz-json-1.0")])
        return [page]

    def forget(self) -> None:
        """Forget the region's figures: moto keeps them per process."""
        cloudwatch_backends[DEFAULT_ACCOUNT_ID][self._region].reset()


def _paged(results: Sequence[Mapping[str, Any]], first: int, most: int) -> dict[str, Any]:
    """The figures from ``first`` on, counted over all results, and where the next page begins."""
    told: list[dict[str, Any]] = []
    passed, last = 0, first + most
    for result in results:
        count = len(result["Values"])
        part = slice(max(0, first - passed), max(0, last - passed))
        values = result["Values"][part]
        if values:
            state = "Complete" if passed + count <= last else "PartialData"
            cut = {"Timestamps": result["Timestamps"][part], "Values": values, "StatusCode": state}
            told.append({**result, **cut})
        passed += count
    return {"MetricDataResults": told, **({"NextToken": str(last)} if passed > last else {})}


def _refused(start_response: Any, operation: str, region: str) -> Iterable[bytes]:
    action = f"cloudwatch:{operation}"
    message = (
        f"User: arn:aws:iam::{DEFAULT_ACCOUNT_ID}:user/sandbox is not authorized to perform: {action} on resource:"
        f" arn:aws:cloudwatch:{region}:{DEFAULT_ACCOUNT_ID}:* because no identity-based policy allows the {action}"
        " action"
    )
    headers = [("Content-Type", "application/x-amz-json-1.0"), ("x-amzn-query-error", "AccessDenied;Sender")]
    start_response("403 Forbidden", headers)
    return [json.dumps({"__type": "AccessDeniedException", "message": message}).encode()]
