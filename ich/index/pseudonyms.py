"""Pseudonyms in place of PatientID: slices of a patient stay together, but the patient is hidden."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path

from ich.index.cache import Row, Rows, make_folder
from ich.schema import UserError
from ich.tables import HEADER_DTYPES

KEY = "pseudonyms.key"
"""File beside the index. Only with this file can someone check whether a PatientID is in the index."""

_BYTES = 32
_PATIENT = list(HEADER_DTYPES).index("PatientID")


def find_pseudonym_key(folder: Path, *, make: bool) -> bytes | None:
    """Reads the key of the pseudonyms of an index.

    Args:
        folder: The index's folder.
        make: Whether to draw a key if there is none.

    Returns:
        The key, or None if the index has original PatientIDs.

    Raises:
        UserError: If it cannot be written or read, or is damaged.
    """
    path = folder / KEY
    try:
        if make and not path.exists():
            make_folder(folder)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(secrets.token_bytes(_BYTES))
        key = path.read_bytes()
    except OSError as error:
        if not make and not path.exists():
            return None
        raise UserError(
            f"the key of the pseudonyms, {path}, cannot be read or written: {error.strerror or error}; "
            "name another folder with data.index_dir"
        ) from error
    if len(key) != _BYTES:
        raise UserError(f"{path} has {len(key)} bytes, not {_BYTES}: it is damaged; remove it and the index")
    return key


def hide_patients(chunks: Iterable[Rows], key: bytes) -> Iterator[Rows]:
    """Replaces PatientIDs by pseudonyms: the first half of HMAC-SHA-256, in hexadecimal.

    A blank PatientID stays blank, because it does not identify patients.
    """
    for slices, refused in chunks:
        yield [_hide_patient(row, key) for row in slices], refused


def _hide_patient(row: Row, key: bytes) -> Row:
    patient = row[_PATIENT]
    if not patient.strip():
        return row
    pseudonym = hmac.digest(key, patient.encode(), hashlib.sha256).hex()[:32]
    return (*row[:_PATIENT], pseudonym, *row[_PATIENT + 1 :])
