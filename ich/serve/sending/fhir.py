"""Answers to a FHIR server."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from ich.serve.sending.bundle import find_fault, make_bundle
from ich.serve.sending.delivery import Delivery, NotTaken, Waiting, read_header, read_result
from ich.serve.sending.posting import authorize, post

_TYPE = "application/fhir+json"


def deliver(delivery: Delivery) -> Waiting | None:
    """Posts a result to a FHIR server as one transaction.

    Raises:
        NotTaken: If the server is away, or did not take all of it.
    """
    node, files = delivery.node, delivery.files
    bundle = make_bundle(read_result(files), read_header(files), datetime.now(UTC))
    headers = {"Content-Type": _TYPE, "Accept": _TYPE, **authorize(node)}
    answer = post(node, node.address, json.dumps(bundle).encode(), headers)
    try:
        found = json.loads(answer.content)
    except ValueError as error:
        raise NotTaken("the answer is not JSON") from error
    if fault := find_fault(found):
        raise NotTaken(fault)
    return None
