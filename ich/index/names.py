"""What files are by their names; where the name says something other than DICOM, by their first bytes too."""

from __future__ import annotations

from ich.files import find_on_disk
from ich.schema.codes import Refusal

HEAD = 512
"""Bytes by which a file is told: DICOM's prefix ends at 132, the magic of tar lies at 257."""

NameRefusal = tuple[Refusal, str]
"""Code and detail."""


def _list_suffixes(*words: str) -> frozenset[str]:
    return frozenset(f".{suffix}" for suffix in " ".join(words).split())


ARCHIVE_SUFFIXES = _list_suffixes("7z bz2 dmg gz iso lz lzma rar tar tbz tbz2 tgz txz xz z zip zst")
SLICE_SUFFIXES = (".dcm", ".dicom", ".ima")
"""Of what was to be a slice, whatever became of it."""

VOLUME_SUFFIXES = _list_suffixes("mha mhd nii nrrd")

# DICOM files bear any suffix or none, so what is hardly one is named here.
_OTHER_SUFFIXES = _list_suffixes(
    "csv doc docx htm html json log md pdf tsv txt xls xlsx xml yaml yml",
    "bmp gif jp2 jpeg jpg png svg tif tiff webp",
    "h5 hdf5 npy npz parquet pkl tfrecord",
    "ckpt onnx pt pth py sh",
    # Of the viewer that comes with a medium.
    "app bat cab cfg chm class cmd com config css db dll dylib exe hlp icns ico inf ini jar js lnk",
    "manifest msi ocx plist rtf so swf sys ttf url xsl",
)
_KNOWN_SUFFIXES = _OTHER_SUFFIXES | ARCHIVE_SUFFIXES | VOLUME_SUFFIXES

_ARCHIVE = (Refusal.ARCHIVE, "is an archive or compressed as a whole: unpack it first")
_VOLUME = (Refusal.VOLUME, "is an image of another format, by its name: expected DICOM")
_OTHER = (Refusal.OTHER_KIND, "is no DICOM, by its name and its first bytes")
_MAGIC = (b"PK\3\4", b"PK\5\6", b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\7")


def find_suffix(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot; empty without one."""
    return name[name.rfind(".") :].lower() if "." in name else ""


def may_be_dicom(name: str) -> bool:
    """Tells by its name whether a file may be DICOM: neither hidden, nor by its suffix something else."""
    return not name.startswith(".") and find_suffix(name) not in _KNOWN_SUFFIXES


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins so is DICOM (PS3.10 7.1)."""
    return head[128:132] == b"DICM"


def is_archive(head: bytes) -> bool:
    """Whether a file that begins so is an archive, or compressed as a whole."""
    return not is_dicom(head) and (head.startswith(_MAGIC) or head[257:262] == b"ustar")


def judge_name(name: str, head: bytes) -> NameRefusal | None:
    """Why a file is not read, by its name; None where it may be DICOM by that, or is by its first bytes.

    Args:
        name: The file's name, without its folder.
        head: Its first bytes, ``HEAD`` of them.
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
    """``judge_name`` of a file on the disk, which is opened only where its name calls for that.

    Args:
        path: As ``ich.files.escape_path`` shows it.
    """
    name = path.rpartition("/")[2]
    return None if may_be_dicom(name) else judge_name(name, read_head(path))


def read_head(path: str) -> bytes:
    """Reads the first ``HEAD`` bytes of a file; none where it cannot be read."""
    try:
        with open(find_on_disk(path), "rb", buffering=0) as file:  # noqa: PTH123 - a text
            return file.read(HEAD)
    except OSError:
        return b""
