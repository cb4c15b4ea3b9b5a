"""Passwords: what is accepted, and their hashes by argon2."""

from __future__ import annotations

import re
import threading

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from ich.schema import UserError

LEAST = 12
"""Fewest characters of a password."""

MOST = 256
"""Most characters of a password."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
_AT_ONCE = threading.BoundedSemaphore(2)  # a hash takes 19 MiB, and anybody may ask for one

_HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
"""Source of the costs: the least that https://cheatsheetseries.owasp.org advises for Argon2id."""


def check_name(name: str) -> str:
    """Returns the name of an account in lowercase.

    Raises:
        UserError: If it cannot be one.
    """
    lower = name.strip().lower()
    if not _NAME.fullmatch(lower):
        raise UserError("The name of an account has 1 to 64 letters, digits, dots, _, @ and -.")
    return lower


def check_password(password: str) -> str:
    """Returns a password that may be set.

    Raises:
        UserError: If it is too short or too long.
    """
    if not LEAST <= len(password) <= MOST:
        raise UserError(f"A password has {LEAST} to {MOST} characters.")
    return password


def hash_password(password: str) -> str:
    """Hashes a password."""
    with _AT_ONCE:
        return _HASHER.hash(password)


UNKNOWN = hash_password("the account does not exist")
"""A hash that takes as long to compare as one of an account."""


def is_password(found: str, password: str) -> bool:
    """Whether a password has this hash; it takes as long if not."""
    try:
        with _AT_ONCE:
            return _HASHER.verify(found, password[: MOST + 1])
    except (Argon2Error, InvalidHashError):
        return False
