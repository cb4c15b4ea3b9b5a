"""Zip archives, unpacked under numbers: a name in an archive never becomes one on the disk."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from rich.progress import MofNCompleteColumn, Progress

from ich.dicom.files import MAX_BYTES
from ich.index.files import may_be_dicom
from ich.progress import make_bar
from ich.schema import UserError
from ich.studies.refusal import InputRefusal, Refused

ARCHIVE_SUFFIX = ".zip"
MAX_MEMBERS = 200_000  # of an archive: some thousand studies
MAX_RATIO = 100  # of unpacked to packed: slices deflate to a half or a quarter, and blank ones to a hundredth
FREE_RATIO = 1 << 28  # bytes that any archive may unpack to
MOST_OF_DISK = 0.9  # of what is free

_NESTED = (".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ARCHIVE_SUFFIX)
_PIECE = 1 << 20  # bytes that are unpacked at a time
_ENCRYPTED = 0x1  # bit of a member's flags (APPNOTE 4.4.4)
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
_UNIX = 3  # system that made a member (APPNOTE 4.4.2), whose attributes then hold a mode


@dataclass
class Unpacked:
    """What an archive holds.

    Attributes:
        files: The name in the archive, which several may share, the path on the disk, and what it is called
            in messages.
        refused: Members that were not unpacked though they may be DICOM.
        strays: How many of these may have been slices, by the folder where they would lie.
    """

    files: list[tuple[str, str, str]] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    strays: Counter[str] = field(default_factory=Counter)


class _RefusedMemberError(Exception):
    def __init__(self, code: InputRefusal, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def is_archive(path: Path) -> bool:
    """Tells whether a file is a zip archive, by its suffix or by its first bytes if it is not DICOM."""
    if path.name.lower().endswith(ARCHIVE_SUFFIX):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[:4] in (b"PK\3\4", b"PK\5\6") and head[128:] != b"DICM"


def unpack(path: Path, scratch: Path, progress: bool) -> Unpacked:
    """Unpacks the members of a zip archive that may be DICOM.

    Folders and files get numbers for names. Sizes are checked before anything is written. Links, devices and
    files that are something else by their suffix are passed over.

    Args:
        path: The archive.
        scratch: Folder that gets a folder of its own for this archive.
        progress: Show a bar on a terminal.

    Raises:
        UserError: If ``scratch`` cannot be written to.
    """
    unpacked = Unpacked()
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        unpacked.refused.append((str(path), InputRefusal.BAD_ARCHIVE, _tell(error)))
        return unpacked
    with archive:
        members = [member for member in archive.infolist() if _is_candidate(member)]
        try:
            if (reason := _find_bomb(members, path, scratch)) is not None:
                unpacked.refused.append((str(path), InputRefusal.ARCHIVE_TOO_LARGE, reason))
            else:
                into = Path(tempfile.mkdtemp(prefix="archive-", dir=scratch))
                _unpack_members(archive, members, into, unpacked, progress)
        except OSError as error:
            raise UserError(
                f"{path} cannot be unpacked to {scratch}: {_tell(error)}; make room, or unpack it yourself"
            ) from error
    return unpacked


def _tell(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_candidate(member: zipfile.ZipInfo) -> bool:
    """Whether a member is a file that may be DICOM, or an archive."""
    mode = member.external_attr >> 16 if member.create_system == _UNIX else 0
    if _fold(member.filename).endswith("/") or stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return False
    parts = _fold(member.filename).split("/")
    if any(part == "__MACOSX" or part.startswith(".") for part in parts[:-1] if part not in (".", "..")):
        return False
    return may_be_dicom(parts[-1]) or _is_nested(member)


def _is_nested(member: zipfile.ZipInfo) -> bool:
    return member.filename.lower().endswith(_NESTED)


def _fold(name: str) -> str:
    return name.replace("\\", "/")  # as some programs of Windows write it


def _find_bomb(members: list[zipfile.ZipInfo], path: Path, scratch: Path) -> str | None:
    """Why an archive is not to be unpacked, by what it says of itself."""
    total, free = sum(member.file_size for member in members), shutil.disk_usage(scratch).free
    if len(members) > MAX_MEMBERS:
        return f"has {len(members)} files, at most {MAX_MEMBERS} are unpacked"
    if total > max(FREE_RATIO, MAX_RATIO * path.stat().st_size):
        return f"unpacks to {total} bytes, more than {MAX_RATIO} times its size"
    if total > MOST_OF_DISK * free:
        return f"unpacks to {total} bytes, and {free} are free"
    return None


def _unpack_members(
    archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], into: Path, unpacked: Unpacked, progress: bool
) -> None:
    folders: dict[str, Path] = {}
    with make_bar((*Progress.get_default_columns(), MofNCompleteColumn()), progress) as bar:
        for number, member in enumerate(bar.track(members, description="Unpacking")):
            name = _fold(member.filename)
            folder = folders.setdefault(name.rpartition("/")[0], into / str(len(folders)))
            folder.mkdir(exist_ok=True)
            shown = f"{archive.filename}/{name if name.isprintable() else ascii(name)[1:-1]}"
            try:
                _check_member(member)
                _write_member(archive, member, folder / str(number))
            except _RefusedMemberError as refused:
                unpacked.refused.append((shown, refused.code, str(refused)))
                unpacked.strays[str(folder)] += refused.code != InputRefusal.NESTED_ARCHIVE
            else:
                unpacked.files.append((name, str(folder / str(number)), shown))


def _check_member(member: zipfile.ZipInfo) -> None:
    if _is_nested(member):
        raise _RefusedMemberError(InputRefusal.NESTED_ARCHIVE, "is an archive in an archive: unpack it first")
    if member.flag_bits & _ENCRYPTED:
        raise _RefusedMemberError(InputRefusal.ENCRYPTED, "takes a password: unpack it first")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _RefusedMemberError(
            InputRefusal.UNSUPPORTED_COMPRESSION,
            f"is compressed by method {member.compress_type}, expected 8 (deflate) or 0: unpack it first",
        )
    if member.file_size > MAX_BYTES:
        raise _RefusedMemberError(
            InputRefusal.MEMBER_TOO_LARGE, f"has {member.file_size} bytes, at most {MAX_BYTES} are read"
        )


def _write_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
    """Writes a member, whole or not at all; never more than the size that it says it has."""
    try:
        source = archive.open(member)
    except _DAMAGE as error:
        raise _RefusedMemberError(InputRefusal.BAD_MEMBER, _tell(error)) from error
    with source, path.open("xb") as file:
        while piece := _read_piece(source, path):
            file.write(piece)


def _read_piece(source: IO[bytes], path: Path) -> bytes:
    try:
        return source.read(_PIECE)
    except _DAMAGE as error:
        path.unlink()
        raise _RefusedMemberError(InputRefusal.BAD_MEMBER, _tell(error)) from error
