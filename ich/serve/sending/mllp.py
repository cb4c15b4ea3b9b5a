"""Answers by HL7 over MLLP, the minimal lower layer protocol."""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from contextlib import suppress
from datetime import UTC, datetime

from ich.serve.sending.addresses import split_address
from ich.serve.sending.delivery import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    Delivery,
    NotTaken,
    Waiting,
    read_header,
    read_result,
)
from ich.serve.sending.oru import find_fault, make_message
from ich.serve.sending.tls import make_context
from ich.serve.settings.parts import Node

_LONGEST_ANSWER = 1 << 16  # bytes


def deliver(delivery: Delivery) -> Waiting | None:
    """Sends a result to an HL7 node, which must accept it (AA).

    Raises:
        NotTaken: If the node is away, or did not accept the message.
    """
    identifier = hashlib.sha256(f"{delivery.study}-{delivery.reading}".encode()).hexdigest()[:20]
    message = make_message(
        read_result(delivery.files),
        read_header(delivery.files),
        facility=delivery.ae_title,
        identifier=identifier,
        now=datetime.now(UTC),
    )
    if fault := find_fault(exchange(delivery.node, message), identifier):
        raise NotTaken(fault)
    return None


def exchange(node: Node, message: str) -> list[list[str]]:
    """Sends a message and returns the fields of the segments of the answer.

    Raises:
        NotTaken: If the node is away, or its answer is not HL7.
    """
    from hl7.exceptions import HL7Exception
    from hl7.mllp import InvalidBlockError

    host, port = split_address(node)
    context = None if node.tls is None else make_context(node.tls)
    try:
        return asyncio.run(_exchange(host, port, context, message))
    except TimeoutError as error:
        raise NotTaken("no answer in time") from error
    except OSError as error:
        raise NotTaken("no connection") from error
    except (EOFError, ValueError, HL7Exception, InvalidBlockError) as error:
        raise NotTaken("the answer is not HL7") from error


async def _exchange(host: str, port: int, context: ssl.SSLContext | None, message: str) -> list[list[str]]:
    from hl7.mllp import open_hl7_connection

    opening = open_hl7_connection(
        host, port, encoding="utf-8", encoding_errors="replace", ssl=context, limit=_LONGEST_ANSWER
    )
    reader, writer = await asyncio.wait_for(opening, CONNECT_SECONDS)
    try:
        writer.writeblock(message.encode())
        await asyncio.wait_for(writer.drain(), ANSWER_SECONDS)
        answer = await asyncio.wait_for(reader.readmessage(), ANSWER_SECONDS)
    finally:
        writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(writer.wait_closed(), CONNECT_SECONDS)
    return [[str(field) for field in segment] for segment in answer]
