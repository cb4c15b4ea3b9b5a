"""Unpacks archives of every kind, or refuses them as a whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from ich.files import find_on_disk
from ich.index.names import read_head
from ich.schema import UserError
from ich.schema.codes import InputRefusal, Refusal
from ich.schema.errors import describe_error
from ich.studies.tars import can_open, is_tar, open_unpacked, unpack_tar
from ich.studies.unpacking import DAMAGE, NoRoomError, TooLargeError, Unpacked, Unpacker
from ich.studies.zips import unpack_zip

_ZIP = (b"PK\3\4", b"PK\5\6")
_UNKNOWN = "is an archive of another kind than zip, tar, gz or bz2: unpack it first"


def unpack(shown: str, scratch: Path, progress: bool) -> Unpacked:
    """Unpacks files that may be DICOM from an archive: zip, tar, or a single file, also with gzip or bzip2.

    Files and folders get numbers as names. Links and all other members that are not unpacked are listed.

    Args:
        shown: The archive, as ``ich.files.escape_path`` shows it.
        scratch: Folder that gets a folder of its own for this archive.
        progress: Show a bar on a terminal.

    Raises:
        UserError: If ``scratch`` cannot be written to.
    """
    try:
        into = Path(tempfile.mkdtemp(prefix="archive-", dir=scratch))
        return _unpack(Path(find_on_disk(shown)), Unpacker(shown, into), into, progress)
    except TooLargeError as error:
        shutil.rmtree(into)
        return Unpacked(refused=[(shown, str(InputRefusal.ARCHIVE_TOO_LARGE), str(error))])
    except (NoRoomError, OSError) as error:
        raise UserError(
            f"{shown} cannot be unpacked to {scratch}: {describe_error(error)}; make room, or unpack it "
            "yourself"
        ) from error


def _unpack(path: Path, unpacker: Unpacker, into: Path, progress: bool) -> Unpacked:
    try:
        head = read_head(str(path))
        if head.startswith(_ZIP) or path.suffix.lower() == ".zip":
            unpack_zip(path, unpacker, into, progress)
        elif can_open(path, head):
            with open_unpacked(path, into) as source:
                if is_tar(path, source.peek()):
                    unpack_tar(source, unpacker, progress)
                else:
                    unpacker.add_single(source)
        else:
            unpacker.refuse(Refusal.ARCHIVE, _UNKNOWN)
    except DAMAGE as error:
        unpacker.refuse(InputRefusal.BAD_ARCHIVE, describe_error(error))
    return unpacker.unpacked
