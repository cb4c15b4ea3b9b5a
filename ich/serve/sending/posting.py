"""Answers by HTTP: what is posted to a node, and what counts as its answer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from ich.schema import UserError
from ich.serve.sending.delivery import ANSWER_SECONDS, CONNECT_SECONDS, NotTaken
from ich.serve.sending.tls import make_context
from ich.serve.settings.parts import Node

_LONGEST_ANSWER = 4 << 20  # bytes
_LONGEST_SECONDS = 4 * ANSWER_SECONDS  # of a node that answers byte by byte
_TIMEOUT = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)


@dataclass(frozen=True)
class Answer:
    """An answer of a node that took what was posted.

    Attributes:
        status: Its HTTP status, from 200 to 299.
        content: Its content.
    """

    status: int
    content: bytes


def post(node: Node, url: str, content: bytes, headers: Mapping[str, str]) -> Answer:
    """Posts to a node. It goes to the address of the settings and nowhere else.

    Redirects are not followed, and proxies and passwords of the environment are not used.

    Raises:
        NotTaken: If the node is away, or its status is not from 200 to 299.
    """
    end = time.monotonic() + _LONGEST_SECONDS
    verify = True if node.tls is None else make_context(node.tls)
    parts: list[bytes] = []
    try:
        with (
            httpx.Client(verify=verify, timeout=_TIMEOUT, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", url, content=content, headers=dict(headers)) as answer,
        ):
            if not answer.is_success:
                raise NotTaken(f"HTTP status {answer.status_code}")
            for part in answer.iter_bytes():
                parts.append(part)
                if sum(map(len, parts)) > _LONGEST_ANSWER or time.monotonic() > end:
                    raise NotTaken("the answer is too long")
    except httpx.ConnectError as error:
        raise NotTaken("no connection") from error
    except httpx.TimeoutException as error:
        raise NotTaken("no answer in time") from error
    except httpx.HTTPError as error:
        raise NotTaken(f"the connection failed ({type(error).__name__})") from error
    return Answer(answer.status_code, b"".join(parts))


def read_secret(path: str, setting: str = "send: secret_file") -> str:
    """Reads a secret, without the white space around it.

    Args:
        path: The file.
        setting: Names it in messages.

    Raises:
        UserError: If the file cannot be read, is empty, or holds what no header may hold.
    """
    try:
        secret = Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it holds other characters than those of ASCII"
        raise UserError(f"{setting}={path} cannot be read: {reason}") from error
    if not secret or not secret.isprintable():
        raise UserError(f"{setting}={path} must hold one line with the secret")
    return secret


def authorize(node: Node) -> dict[str, str]:
    """Returns the header with the bearer token of a node (RFC 6750); none without a token."""
    return {} if node.secret_file is None else {"Authorization": f"Bearer {read_secret(node.secret_file)}"}
