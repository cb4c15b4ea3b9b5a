"""The encryption of connections."""

from __future__ import annotations

import ssl

from ich.schema import UserError
from ich.serve.settings.parts import Tls


def make_context(tls: Tls, setting: str) -> ssl.SSLContext:
    """Makes what encrypts the connections of a server.

    Args:
        tls: The files.
        setting: Names their section in messages.

    Raises:
        UserError: If a file cannot be read, or certificate and key do not match.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_refuse_password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise UserError(
            f"{setting}: certificate={tls.certificate} and key={tls.key} cannot be used: {_explain(error)}"
        ) from error
    if tls.authority is not None:
        try:
            context.load_verify_locations(tls.authority)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{setting}: authority={tls.authority} cannot be used: {_explain(error)}"
            ) from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _refuse_password() -> str:
    raise ValueError("the key is protected by a password; give one without")


def _explain(error: Exception) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "they do not belong together"
    if isinstance(error, ssl.SSLError):
        return "one of them is not a PEM file with what it should hold"
    return getattr(error, "strerror", None) or str(error)
