"""Answers by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

from pydicom import dcmread

from ich.serve.sending.delivery import Delivery, NotTaken, Waiting, is_taken, list_objects
from ich.serve.sending.posting import authorize, post

_ALL_STORED = 200
_REFERENCED, _FAILED = "00081199", "00081198"  # ReferencedSOPSequence, FailedSOPSequence
_UID, _REASON = "00081155", "00081197"  # ReferencedSOPInstanceUID, FailureReason


def deliver(delivery: Delivery) -> Waiting | None:
    """Posts all objects of an answer to a DICOMweb node in one request.

    Raises:
        NotTaken: If the node is away, or did not store an object.
    """
    node = delivery.node
    paths = list_objects(node, delivery.files)
    uids = {str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID) for path in paths}
    boundary = secrets.token_hex(16)
    headers = {
        "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
        "Accept": "application/dicom+json",
        **authorize(node),
    }
    content = join_parts([path.read_bytes() for path in paths], boundary)
    answer = post(node, f"{node.address.rstrip('/')}/studies", content, headers)
    if fault := find_fault(answer.status, answer.content, uids):
        raise NotTaken(fault)
    return None


def join_parts(parts: Sequence[bytes], boundary: str) -> bytes:
    """Joins DICOM files to the content of a request (RFC 2046 5.1, RFC 2387)."""
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    return b"".join(head + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()


def find_fault(status: int, content: bytes, uids: set[str]) -> str:
    """Finds out whether a node stored all objects (PS3.18 10.5.3).

    Args:
        status: HTTP status of its answer, from 200 to 299.
        content: Its answer, DICOM JSON; a node that stored all may answer nothing.
        uids: SOPInstanceUIDs of the objects.

    Returns:
        What it did not store; empty if it stored all.
    """
    if status == _ALL_STORED and not content.strip():
        return ""
    try:
        found = json.loads(content)
        found = found[0] if isinstance(found, list) else found
        failed = {_read(each, _UID): int(_read(each, _REASON)) for each in _list(found, _FAILED)}
        stored = {_read(each, _UID) for each in _list(found, _REFERENCED)}
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"HTTP status {status} with an answer that is not DICOM JSON"
    refused = [reason for reason in failed.values() if not is_taken(reason)]
    if refused:
        return f"{len(refused)} of {len(uids)} objects failed, the first with 0x{refused[0]:04X}"
    lacking = uids - stored - failed.keys()
    return f"the answer lacks {len(lacking)} of {len(uids)} objects" if lacking else ""


def _list(found: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = found.get(tag, {}).get("Value", [])
    return items


def _read(item: dict[str, Any], tag: str) -> Any:
    return item[tag]["Value"][0]
