"""The part of the plan that says who does the bulk work."""

from __future__ import annotations

from planrunner.loading.outline import Schema, mapping, text


def _file(title: str, description: str, example: str) -> Schema:
    return text(
        title, f"{description}, on this machine. By default what Dask's own configuration says.", example
    )


POOL = mapping(
    "Pool",
    "Who does the bulk work: copying, building indexes, comparing rows. By default threads of this process; with `dask`"
    " the workers of a scheduler of dask.distributed, on as many machines as you like. `run --pool` and `verify --pool`"
    " say another.",
    {
        "dask": {
            "type": ["string", "object"],
            "title": "Dask",
            "description": "The scheduler's address, or a mapping that says more. Beyond this machine it must be tls://.",
            "properties": {
                "address": text("Address", "Where the scheduler listens.", "tls://scheduler:8786"),
                "ca": _file(
                    "CA", "The file of certificates by which the scheduler proves who it is", "pool/ca.pem"
                ),
                "cert": _file("Certificate", "The file of the certificate that we show", "pool/me.pem"),
                "key": _file("Key", "The file of that certificate's private key", "pool/me.key"),
            },
            "required": ["address"],
            "additionalProperties": False,
            "examples": [
                "tls://scheduler:8786",
                {
                    "address": "tls://scheduler:8786",
                    "ca": "pool/ca.pem",
                    "cert": "pool/me.pem",
                    "key": "pool/me.key",
                },
            ],
        }
    },
    required=["dask"],
)
