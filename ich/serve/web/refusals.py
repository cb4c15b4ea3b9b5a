"""Why a request is refused, as the page says it."""

from __future__ import annotations


class RefusedError(Exception):
    """A request that is refused.

    Attributes:
        status: Status of HTTP.
        text: What the page says.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


class LoginNeededError(Exception):
    """A page for which the user must log in first."""
