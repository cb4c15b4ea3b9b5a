"""Answers to a webhook, signed as Standard Webhooks 1 says (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import replace
from datetime import UTC, datetime

from ich.schema import UserError
from ich.schema.formats import to_plain
from ich.serve.sending.delivery import Delivery, NotTaken, Waiting, read_result
from ich.serve.sending.posting import post, read_secret

_PREFIX = "whsec_"
_SHORTEST = 24  # bytes of a secret


def deliver(delivery: Delivery) -> Waiting | None:
    """Posts the result as JSON to a webhook, with a signature.

    The PatientID is empty unless the node's settings ask for it. The message's identifier stays the same in
    each attempt, so that the node can tell that it has the message already.

    Raises:
        NotTaken: If the node is away, or its status is not from 200 to 299.
    """
    node = delivery.node
    result = read_result(delivery.files)
    if not node.shows_identity:
        result = replace(result, PatientID="")
    now = time.time()
    content = json.dumps(
        {
            "type": "study.result",
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat(),
            "data": {"study": delivery.study, "reading": delivery.reading, "result": to_plain(result)},
        }
    ).encode()
    if node.secret_file is None:
        raise NotTaken("the settings name no secret_file", for_good=True)
    headers = sign(content, f"{delivery.study}-{delivery.reading}", int(now), read_key(node.secret_file))
    post(node, node.address, content, {"Content-Type": "application/json", **headers})
    return None


def sign(content: bytes, identifier: str, now: int, key: bytes) -> dict[str, str]:
    """Makes the headers that prove who sent a message, and when.

    The signature is the HMAC-SHA256 of ``IDENTIFIER.SECONDS.CONTENT``, in Base64 after ``v1,``.

    Args:
        content: Content of the message.
        identifier: Names the message, the same in each attempt.
        now: Seconds since 1970.
        key: The secret that the node knows.
    """
    signed = f"{identifier}.{now}.".encode() + content
    digest = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {"webhook-id": identifier, "webhook-timestamp": str(now), "webhook-signature": f"v1,{digest}"}


def read_key(path: str, setting: str = "send: secret_file") -> bytes:
    """Reads the secret that signs messages: Base64, with or without ``whsec_`` before it.

    Args:
        path: The file.
        setting: Names it in messages.

    Raises:
        UserError: If the file cannot be read, or holds something else.
    """
    try:
        key = base64.b64decode(read_secret(path, setting).removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if len(key) < _SHORTEST:
        raise UserError(
            f"{setting}={path}; expected the Base64 of {_SHORTEST} bytes or more, such as "
            "`openssl rand -base64 32` writes"
        )
    return key
