"""Unpacks zip archives."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from ich.progress import track
from ich.schema.codes import InputRefusal
from ich.schema.errors import describe_error
from ich.studies import unpacking
from ich.studies.unpacking import (
    DAMAGE,
    LINK,
    RefusedMemberError,
    TooLargeError,
    Unpacker,
    find_bound,
    fold_name,
    require_size,
)

_ENCRYPTED = 0x1  # bit of a member's flags (APPNOTE 4.4.4)
_UNIX = 3  # system that made a member (APPNOTE 4.4.2), whose attributes then hold a mode


def unpack_zip(path: Path, unpacker: Unpacker, scratch: Path, progress: bool) -> None:
    """Unpacks a zip archive. Sizes are checked before anything is written.

    Args:
        path: The archive.
        unpacker: Receives the members.
        scratch: Folder on a disk that must have enough space.
        progress: Show a bar on a terminal.

    Raises:
        TooLargeError: If it would unpack to more than is allowed.
        zipfile.BadZipFile: If it is damaged as a whole; so do others of ``DAMAGE``.
    """
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if not fold_name(m.filename).endswith("/")]  # no folders
        _require_bounds(members, path, scratch)
        for member in track(members, "Unpacking", len(members), progress):
            try:
                _check_member(member)
                source = archive.open(member)
            except RefusedMemberError as error:
                unpacker.add(member.filename, error)
            except DAMAGE as error:
                refused = RefusedMemberError(InputRefusal.BAD_MEMBER, describe_error(error))
                unpacker.add(member.filename, refused)
            else:
                with source:
                    unpacker.add(member.filename, source)


def _require_bounds(members: list[zipfile.ZipInfo], path: Path, scratch: Path) -> None:
    """Refuses a bomb by its own directory."""
    if len(members) > unpacking.MAX_MEMBERS:
        raise TooLargeError(f"has {len(members)} files, at most {unpacking.MAX_MEMBERS} are unpacked")
    total = sum(member.file_size for member in members)
    bound, reason = find_bound(path, scratch)
    if total > bound:
        raise TooLargeError(f"unpacks to {total} bytes, {reason}")


def _check_member(member: zipfile.ZipInfo) -> None:
    mode = member.external_attr >> 16 if member.create_system == _UNIX else 0
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        raise RefusedMemberError(InputRefusal.LINK, LINK, is_stray=False)
    if member.flag_bits & _ENCRYPTED:
        raise RefusedMemberError(InputRefusal.ENCRYPTED, "needs a password: unpack it first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise RefusedMemberError(
            InputRefusal.UNSUPPORTED_COMPRESSION,
            f"is compressed by method {member.compress_type}, expected 8 (deflate) or 0: unpack it first",
        )
    require_size(member.file_size)
