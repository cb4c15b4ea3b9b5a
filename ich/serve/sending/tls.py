"""Encryption of connections to nodes."""

from __future__ import annotations

import ssl

from ich.serve.settings.parts import Tls


def make_context(tls: Tls) -> ssl.SSLContext:
    """Makes the settings of an encrypted connection to a node.

    The node must show a certificate of the authority, whatever host name it is for: nodes of DICOM and HL7
    are often known by address. Without an authority any certificate will do.

    Raises:
        OSError: If a file cannot be read, or the certificate and the key do not match (``ssl.SSLError``).
        ValueError: If a password protects the key. OpenSSL would ask for it at the terminal.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE if tls.authority is None else ssl.CERT_REQUIRED
    context.load_cert_chain(tls.certificate, tls.key, password=_refuse_password)
    if tls.authority is not None:
        context.load_verify_locations(tls.authority)
    return context


def _refuse_password() -> str:
    raise ValueError("a password protects the key; give a key without one")
