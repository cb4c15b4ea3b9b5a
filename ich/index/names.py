"""Recognizes kinds of files by their names, and by their first bytes if the name is not that of DICOM."""

from __future__ import annotations

from ich.files import find_on_disk
from ich.remote import RemotePath, is_address
from ich.schema.codes import Refusal

HEAD = 512
"""Number of bytes that identify a file: DICOM's prefix ends at 132, the magic of tar lies at 257."""

NameRefusal = tuple[Refusal, str]
"""Code and detail."""


def _list_suffixes(*words: str) -> frozenset[str]:
    return frozenset(f".{suffix}" for suffix in " ".join(words).split())


ARCHIVE_SUFFIXES = _list_suffixes("7z bz2 dmg gz iso lz lzma rar tar tbz tbz2 tgz txz xz z zip zst")
SLICE_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Endings of files that were meant to be slices."""

VOLUME_SUFFIXES = _list_suffixes("mha mhd nii nrrd")

# DICOM files have any suffix or none, so this lists suffixes of other files.
_OTHER_SUFFIXES = _list_suffixes(
    "csv doc docx htm html json log md pdf tsv txt xls xlsx xml yaml yml",
    "bmp gif jp2 jpeg jpg png svg tif tiff webp",
    "h5 hdf5 npy npz parquet pkl tfrecord",
    "ckpt onnx pt pth py sh",
    # Files of the viewer on a medium.
    "app bat cab cfg chm class cmd com config css db dll dylib exe hlp icns ico inf ini jar js lnk",
    "manifest msi ocx plist rtf so swf sys ttf url xsl",
)
_KNOWN_SUFFIXES = _OTHER_SUFFIXES | ARCHIVE_SUFFIXES | VOLUME_SUFFIXES

_ARCHIVE = (Refusal.ARCHIVE, "is an archive or a compressed file: unpack it first")
_VOLUME = (Refusal.VOLUME, "is an image of another format, by its name: expected DICOM")
_OTHER = (Refusal.OTHER_KIND, "is not DICOM, by its name and its first bytes")
_MAGIC = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\7")


def find_suffix(name: str) -> str:
    """Returns the suffix of a file's name in lower case, with its dot; empty without one."""
    return name[name.rfind(".") :].lower() if "." in name else ""


def may_be_dicom(name: str) -> bool:
    """Whether a file may be DICOM by its name: not hidden, and without the suffix of another kind."""
    return not name.startswith(".") and find_suffix(name) not in _KNOWN_SUFFIXES


def is_dicom(head: bytes) -> bool:
    """Whether a file with this beginning is DICOM (PS3.10 7.1)."""
    return head[128:132] == b"DICM"


def is_archive(head: bytes) -> bool:
    """Whether a file with this beginning is an archive or a compressed file."""
    return not is_dicom(head) and (head.startswith(_MAGIC) or head[257:262] == b"ustar")


def judge_name(name: str, head: bytes) -> NameRefusal | None:
    """Says why a file is not read, by its name; None if its name or its first bytes allow DICOM.

    Args:
        name: The file's name, without its folder.
        head: Its first ``HEAD`` bytes.
    """
    if may_be_dicom(name) or is_dicom(head):
        return None
    suffix = find_suffix(name)
    if name.startswith("."):  # such as what macOS writes beside a file, with its name
        return _ARCHIVE if is_archive(head) else _OTHER
    if {suffix, find_suffix(name[: -len(suffix)])} & VOLUME_SUFFIXES:
        return _VOLUME
    return _ARCHIVE if suffix in ARCHIVE_SUFFIXES else _OTHER


def refuse_by_name(path: str) -> NameRefusal | None:
    """Applies ``judge_name`` to a file on the disk, which is opened only if its name requires it.

    Args:
        path: As ``ich.files.escape_path`` shows it.
    """
    name = path.rpartition("/")[2]
    return None if may_be_dicom(name) else judge_name(name, read_head(path))


def read_head(path: str) -> bytes:
    """Reads the first ``HEAD`` bytes of a file; none if it cannot be read."""
    try:
        if is_address(path):
            return RemotePath(path).read_bytes(0, HEAD)
        with open(find_on_disk(path), "rb", buffering=0) as file:  # noqa: PTH123 - a text
            return file.read(HEAD)
    except OSError:
        return b""
