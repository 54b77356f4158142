"""Texts in an S3 bucket, written only over what the writer has seen (If-Match, If-None-Match)."""

from __future__ import annotations

import shlex
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from botocore import exceptions

from planrunner.aws.failures import translated
from planrunner.aws.session import client
from planrunner.ports import Kept

if TYPE_CHECKING:
    from collections.abc import Sequence

_MISSING = frozenset({"NoSuchKey", "404"})
# 412: another text is there; 409: another write of the same name is under way.
_REFUSED = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})


class Bucket:
    """One bucket; region, credentials and endpoint are those that AWS's own tools find. CloudError when it fails."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._client: Any = client("s3", None)

    def read(self, name: str) -> Kept | None:
        """The object of that key, None when there is none."""
        with translated("s3"):
            try:
                found = self._client.get_object(Bucket=self._name, Key=name)
            except exceptions.ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            text = found["Body"].read().decode()
        # Both times are the service's own: this machine's clock may be wrong.
        now = parsedate_to_datetime(found["ResponseMetadata"]["HTTPHeaders"]["date"])
        age = max(0.0, (now - found["LastModified"]).total_seconds())
        return Kept(text=text, tag=found["ETag"], age=age)

    def write(self, name: str, text: str, *, over: str | None) -> str | None:
        """Write over the object of that ETag (None: over nothing); None when another one is there."""
        condition = {"IfNoneMatch": "*"} if over is None else {"IfMatch": over}
        with translated("s3"):
            try:
                return str(self._put(name, text, **condition)["ETag"])
            except exceptions.ClientError as error:
                # With If-Match an object that was removed meanwhile is told as not there.
                if _code(error) in _REFUSED | (_MISSING if over is not None else frozenset()):
                    return None
                raise

    def put(self, name: str, text: str) -> None:
        """Write whatever is there."""
        with translated("s3"):
            self._put(name, text)

    def _put(self, name: str, text: str, **condition: str) -> Any:
        return self._client.put_object(
            Bucket=self._name, Key=name, Body=text.encode(), ContentType="application/json", **condition
        )

    def remove(self, name: str) -> None:
        """Remove the object; S3 says nothing when there is none."""
        with translated("s3"):
            self._client.delete_object(Bucket=self._name, Key=name)

    def names(self, prefix: str) -> Sequence[str]:
        """The keys that begin so, in order."""
        with translated("s3"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix)
            return sorted(each["Key"] for page in pages for each in page.get("Contents", ()))

    def restoring(self, name: str, over: str) -> str:
        """The copy as AWS's own tool makes it."""
        ours, theirs = (shlex.quote(f"s3://{self._name}/{key}") for key in (name, over))
        return f"aws s3 cp {ours} {theirs}"


def _code(error: exceptions.ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
