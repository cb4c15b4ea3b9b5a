"""Who asks, and what they may do."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastapi import Request

from ich.schema import UserError
from ich.serve.settings.parts import Web
from ich.serve.states import Role
from ich.serve.store import Store
from ich.serve.store.accounts import find_session, note_use
from ich.serve.web.forms import Form
from ich.serve.web.refusals import LoginNeededError, RefusedError

SESSION_COOKIE = "__Host-session"
"""Browsers take a cookie with this prefix only over TLS or from this machine, and for this host alone."""

REFRESH_HEADER = "X-Refresh"
"""Marks what a page asks by itself; it does not keep a session alive."""

_NOTED_EVERY = 60.0  # seconds; so that few requests write
_HOUR = 3600.0
_EXPIRED = "The form has expired. Go back, load the page again and repeat what you did."
_RANKS = list(Role)


@dataclass(frozen=True)
class User:
    """A person who asks.

    Attributes:
        name: Name of the account, or as the reverse proxy says.
        role: What they may do.
        csrf: Token that their forms must carry.
        can_log_out: Whether the session is the service's own.
    """

    name: str
    role: Role
    csrf: str
    can_log_out: bool

    def may(self, role: str) -> bool:
        """Whether the user may do what a role may do."""
        return _RANKS.index(self.role) >= _RANKS.index(Role(role))


class Access:
    """Finds out who asks.

    Args:
        web: The settings of the pages.
        store: The database.
        now: Returns the time.

    Raises:
        UserError: If ``web.proxies`` holds something else than addresses.
    """

    def __init__(self, web: Web, store: Store, now: Callable[[], float]) -> None:
        self._web = web
        self._store = store
        self._now = now
        self._proxies = read_networks(web.proxies)
        self._secret = secrets.token_bytes(32)

    @property
    def idle(self) -> float:
        """Seconds without use after which a session ends."""
        return self._web.session_hours * _HOUR

    def identify(self, request: Request) -> User | None:
        """Returns who asks; None if that is not known."""
        if self._web.user_header is not None:
            return self._trust_proxy(request, self._web.user_header)
        token = request.cookies.get(SESSION_COOKIE, "")
        if not token:
            return None
        now = self._now()
        with self._store.view() as connection:
            session = find_session(connection, token, now, idle=self.idle)
        if session is None:
            return None
        if session.seen_at < now - _NOTED_EVERY and REFRESH_HEADER not in request.headers:
            with self._store.begin() as connection:
                note_use(connection, token, now)
        return User(session.account.name, session.account.role, session.csrf, can_log_out=True)

    def require(self, request: Request, role: Role = Role.VIEW) -> User:
        """Returns who asks, if they may do what a role may do.

        Raises:
            LoginNeededError: If it is not known who asks.
            RefusedError: If they may not.
        """
        user = self.identify(request)
        if user is None and self._web.user_header is not None:
            raise RefusedError(401, "The reverse proxy names no user who may see this.")
        if user is None:
            raise LoginNeededError
        if not user.may(role):
            raise RefusedError(403, f"Your account may not do this. It needs the role “{role}”.")
        return user

    def require_form(self, request: Request, role: Role = Role.VIEW) -> tuple[User, Form]:
        """Returns who sends a form, and the form; as ``require``.

        Raises:
            LoginNeededError: If it is not known who sends it.
            RefusedError: If they may not, or the form is not from one of their own pages.
        """
        user = self.require(request, role)
        form: Form = request.state.form
        check_same(form.text("csrf"), user.csrf)
        return user, form

    def _trust_proxy(self, request: Request, header: str) -> User | None:
        given = request.headers.getlist(header)
        if len(given) != 1 or not is_within(find_address(request), self._proxies):
            return None
        name = given[0].strip()[:64]
        role = self._web.user_roles.get(name, self._web.user_role)
        if not name or role is None:
            return None
        csrf = hmac.new(self._secret, name.encode(), "sha256").hexdigest()
        return User(name, Role(role), csrf, can_log_out=False)


def find_address(request: Request) -> str:
    """Returns the address of the peer."""
    return request.client.host if request.client else ""


def check_same(given: str, expected: str) -> None:
    """Compares the token of a form in constant time.

    Raises:
        RefusedError: If it is another one, or there is none.
    """
    if not expected or not hmac.compare_digest(given.encode(), expected.encode()):
        raise RefusedError(403, _EXPIRED)


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def read_networks(texts: Sequence[str]) -> list[_Network]:
    """Reads addresses and networks.

    Raises:
        UserError: If a text is neither.
    """
    try:
        return [ipaddress.ip_network(text, strict=False) for text in texts]
    except ValueError as error:
        raise UserError(f"web.proxies: {error}; expected addresses such as 10.0.0.5 or 10.0.0.0/8") from error


def is_within(address: str, networks: Sequence[_Network]) -> bool:
    """Whether an address belongs to one of the networks."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)
