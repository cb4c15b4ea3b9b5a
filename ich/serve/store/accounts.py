"""Accounts and their sessions."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, Row, delete, func, select, update

from ich.serve.states import Role
from ich.serve.store.tables import accounts, sessions


@dataclass(frozen=True)
class Account:
    """An account.

    Attributes:
        id: Its number in the database.
        name: Its name.
        password: Hash of its password.
        role: What it may do.
        created_at: When it was made.
        disabled: Whether it may no longer log in.
    """

    id: int
    name: str
    password: str
    role: Role
    created_at: float
    disabled: bool


@dataclass(frozen=True)
class Session:
    """A session that has not ended.

    Attributes:
        account: Its account.
        csrf: Token that the forms of the session carry.
        seen_at: When a use of it was noted last.
    """

    account: Account
    csrf: str
    seen_at: float


def create_account(connection: Connection, name: str, password: str, role: Role, now: float) -> bool:
    """Makes an account; returns whether the name was free.

    Args:
        connection: An open transaction.
        name: Its name.
        password: Hash of its password.
        role: What it may do.
        now: The time.
    """
    if find_account(connection, name) is not None:
        return False
    row = accounts.insert().values(name=name, password=password, role=role, created_at=now, disabled=False)
    connection.execute(row)
    return True


def find_account(connection: Connection, name: str) -> Account | None:
    """Finds an account by its name, also a disabled one."""
    row = connection.execute(select(accounts).where(accounts.c.name == name)).first()
    return None if row is None else _to_account(row)


def list_accounts(connection: Connection) -> list[Account]:
    """Lists all accounts by name."""
    return [_to_account(row) for row in connection.execute(select(accounts).order_by(accounts.c.name))]


def count_administrators(connection: Connection) -> int:
    """Counts the accounts that may administer and are not disabled."""
    able = (accounts.c.role == Role.ADMINISTER) & accounts.c.disabled.is_(False)
    return int(connection.execute(select(func.count()).select_from(accounts).where(able)).scalar_one())


def change_account(
    connection: Connection,
    account: int,
    *,
    password: str | None = None,
    role: Role | None = None,
    disabled: bool | None = None,
) -> None:
    """Changes what is given of an account, and ends its sessions."""
    given = {"password": password, "role": role, "disabled": disabled}
    changed = {name: value for name, value in given.items() if value is not None}
    connection.execute(update(accounts).where(accounts.c.id == account).values(changed))
    connection.execute(delete(sessions).where(sessions.c.account_id == account))


def start_session(connection: Connection, account: int, now: float) -> str:
    """Starts a session; returns its token, of which the database keeps only the hash."""
    token = secrets.token_urlsafe(32)
    row = sessions.insert().values(
        digest=_hash(token), account_id=account, csrf=secrets.token_urlsafe(32), created_at=now, seen_at=now
    )
    connection.execute(row)
    return token


def find_session(connection: Connection, token: str, now: float, *, idle: float) -> Session | None:
    """Finds a session that was used in the last ``idle`` seconds and whose account is not disabled."""
    row = connection.execute(
        select(accounts, sessions.c.csrf, sessions.c.seen_at)
        .join(sessions, sessions.c.account_id == accounts.c.id)
        .where(sessions.c.digest == _hash(token), sessions.c.seen_at > now - idle)
        .where(accounts.c.disabled.is_(False))
    ).first()
    return None if row is None else Session(_to_account(row), row.csrf, row.seen_at)


def note_use(connection: Connection, token: str, now: float) -> None:
    """Notes that a person used a session."""
    connection.execute(update(sessions).where(sessions.c.digest == _hash(token)).values(seen_at=now))


def end_session(connection: Connection, token: str) -> None:
    """Ends a session."""
    connection.execute(delete(sessions).where(sessions.c.digest == _hash(token)))


def end_idle_sessions(connection: Connection, now: float, *, idle: float) -> None:
    """Removes the sessions that were not used in the last ``idle`` seconds."""
    connection.execute(delete(sessions).where(sessions.c.seen_at <= now - idle))


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _to_account(row: Row[tuple[object, ...]]) -> Account:
    return Account(row.id, row.name, row.password, Role(row.role), row.created_at, row.disabled)
