"""All codes of the library, each with the sentence that explains it.

Files and messages hold the codes, which stay the same between versions. Pages show the sentences. They
have no full stop, as what was found may follow. ``docs/codes.md`` is what ``make_page`` returns. Exit codes
of commands are in ``ich.schema.exits``.
"""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import Self

from ich.schema.exits import make_table

PAGE = """\
<!-- Made from ich/schema/codes.py and exits.py. After a change there, renew it:
     python -c "from ich.schema.codes import make_page; print(make_page(), end='')" > docs/codes.md -->

# Codes

Files and messages of `ich` hold these codes. They stay the same between versions.
"""

_EXITS = """
## Exit codes

How a command of `ich`, or `train.py`, ended. Numbers above 128 are those of signals on Linux. On macOS,
SIGUSR1 gives 158.

"""


class Code(StrEnum):
    """A code, with the sentence that explains it."""

    sentence: str

    def __new__(cls, code: str, sentence: str = "") -> Self:
        """Makes a member, or finds one by its code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member


class Reason(Code):
    """Why a study is never `NEGATIVE`: `reasons` of a study result."""

    # Files.
    UNREAD_SLICE = "unread_slice", "A file or an image that may be a slice of the head could not be read"
    MISSING_FILE = "missing_file", "A file that the DICOMDIR names is missing"
    STRAY_FILE = "stray_file", "A damaged file may belong to the study"
    CONFLICTING_COPIES = "conflicting_copies", "Files with different contents claim to be the same slice"
    MIXED_PATIENTS = "mixed_patients", "The study holds slices of several patients"
    # The series that is read.
    ONLY_BONE_KERNEL = (
        "only_bone_kernel",
        "Only a bone kernel could be read, and its noise hides faint findings",
    )
    # The geometry of the series.
    NO_POSITION = "no_position", "Some slices have no position, so their order is uncertain"
    GAP = "gap", "Slices seem to be missing between others"
    NOT_MONOTONE = "not_monotone", "The positions of the slices do not follow their numbers"
    MIXED_ORIENTATION = "mixed_orientation", "The slices lie in several orientations"
    MIXED_SPACING = "mixed_spacing", "The slices have several pixel sizes"
    MIXED_SHAPE = "mixed_shape", "The slices have several image sizes"
    NO_SPACING = "no_spacing", "The pixel size is unknown"
    SHORT_COVERAGE = "short_coverage", "The slices do not span a whole head"
    # The pixels.
    NO_VERTEX = "no_vertex", "The top of the head is missing: the uppermost slice still shows a wide brain"
    NO_BASE = "no_base", "The base of the head is missing: the lowest slice already shows a wide brain"
    TURNED = "turned", "The head seems to be turned or upside down, unlike the geometry in the file"
    IMPLAUSIBLE_SLICE = (
        "implausible_slice",
        ("Some slices are left out, because their pixels are not plausible HU"),
    )
    IMPLAUSIBLE_HU = "implausible_hu", "The pixels of too many slices are not plausible HU"
    # The model.
    UNLIKE_TRAINING = "unlike_training", "The study is unlike the training data"
    NO_DECISION = "no_decision", "This model has no decision threshold"
    NO_REFERENCE = "no_reference", "The study cannot be compared with the training data"


NO_RESULT = frozenset({Reason.IMPLAUSIBLE_HU, Reason.NO_DECISION})
"""With these a study is not ``POSITIVE`` either: its probabilities, or a threshold on them, mean nothing."""

OF_MODEL = frozenset({Reason.UNLIKE_TRAINING, Reason.NO_DECISION, Reason.NO_REFERENCE})
"""These are about the model. All other reasons are about the files and pixels of the study."""


class Note(Code):
    """What a reader should know although it prevents no outcome: `notes` of a study result."""

    DUPLICATE_POSITION = "duplicate_position", "Several slices lie at the same position, and all are read"
    REPEATED_SLICE = "repeated_slice", "A slice is stored twice and read once"
    UNEVEN_STEPS = "uneven_steps", "The distance between slices changes, and none is a gap"
    MIXED_IMAGES = "mixed_images", "The series also holds scouts, pages or screens, which are set aside"
    SEVERAL_STACKS = "several_stacks", "The series holds several scans or reconstructions, and one is read"
    NO_UNIT = "no_unit", "The file does not say that its unit is HU, but the pixels show it"
    THIN_SLICES = (
        "thin_slices",
        "Thin slices are averaged to the thickness of the slices that the model was trained on",
    )
    STUDY_EACH = "study_each", "Each slice names a study of its own, and they are read as one study"


class SetAside(Code):
    """Why a series is not read, or a study has no outcome; in the order of how near it came to being read."""

    NOT_CT = "not_ct", "The series is not CT"
    LOCALIZER = "localizer", "The series is a scout"
    DOSE_REPORT = "dose_report", "The series is a radiation dose report"
    SECONDARY_CAPTURE = "secondary_capture", "The series is a screen capture, not a reconstruction"
    MULTI_FRAME = "multi_frame", "Its files hold several frames that cannot be read as slices"
    ALL_REFUSED = "all_refused", "No file of the series is a slice that can be read"
    DERIVED = "derived", "The series is rendered, computed or reformatted"
    NOT_AXIAL = "not_axial", "The slices are not axial"
    OTHER_BODY_PART = "other_body_part", "The series shows another part of the body"
    CONTRAST = "contrast", "The series was acquired with contrast medium"
    TOO_FEW_SLICES = "too_few_slices", "The series has too few slices"
    BONE_KERNEL = "bone_kernel", "The series has a bone kernel, and another one is available"
    NO_WINDOW = "no_window", "The slices have no display window, which the model needs"
    NO_HEAD = "no_head", "No head is seen in the pixels"
    CRASHED = "crashed", "Reading the study ends the process that does it"
    ANOTHER_READ = "another_read", "A more suitable series was analyzed"


class Refusal(Code):
    """Why a DICOM file is refused: codes of `ReadError` and of tables of refused files."""

    UNREADABLE = "unreadable", "The system cannot open or read the file"
    NOT_FILE = "not_file", "It is a folder, pipe, socket or device, not a file"
    EMPTY = "empty", "The file is empty"
    NOT_DICOM = "not_dicom", "The file has no DICOM file meta information (PS3.10 7.1)"
    CORRUPT = "corrupt", "The file cannot be parsed or decoded, or it contradicts itself"
    TRUNCATED = "truncated", "The file ends before its last element or pixel"
    TOO_LARGE = "too_large", "The file is larger than any CT slice, perhaps only when inflated or decoded"
    NO_PIXELS = "no_pixels", "The file has no pixel data"
    NOT_CT = "not_ct", "The file is not a CT image"
    COLOR = "color", "The image is in color"
    MULTI_FRAME = "multi_frame", "The file holds several frames that cannot be read as slices"
    PIXEL_FORMAT = "pixel_format", "The pixel format does not occur in CT slices"
    NO_RESCALE = "no_rescale", "The file has no rescale slope and intercept that lead to HU"
    NO_UID = "no_uid", "The file lacks the UID of its instance, series or study"
    CONSTANT = "constant", "The compressed pixels all decode to one value, as when a codec fails silently"
    CRASHED = "crashed", "Decoding the file ends the process that does it"
    TIMEOUT = "timeout", "Decoding the file takes far longer than any slice does"
    UNSUPPORTED_SYNTAX = "unsupported_syntax", "No codec for the transfer syntax is installed"
    ARCHIVE = "archive", "The file is an archive or compressed as a whole, and is not unpacked here"
    VOLUME = "volume", "The file is an image in a format other than DICOM"
    OTHER_KIND = "other_kind", "The file is hidden or not DICOM, by its name and its first bytes"
    DUPLICATE_UID = "duplicate_uid", "Another file of the index has the same SOPInstanceUID"


class InputRefusal(Code):
    """Why a part of an input of `ich predict` is refused: codes of `refused.csv`, beside those above."""

    BAD_ARCHIVE = "bad_archive", "The archive cannot be read, or not to its end"
    ARCHIVE_TOO_LARGE = "archive_too_large", "The archive would unpack to more than there is room for"
    ENCRYPTED = "encrypted", "The archive member needs a password"
    NESTED_ARCHIVE = "nested_archive", "The archive member is an archive itself"
    LINK = "link", "The archive member is a link to a file elsewhere"
    BAD_MEMBER = "bad_member", "The archive member cannot be unpacked whole"
    MEMBER_TOO_LARGE = "member_too_large", "The archive member is larger than any slice"
    UNSUPPORTED_COMPRESSION = "unsupported_compression", "The archive member is neither stored nor deflated"
    BAD_DICOMDIR = "bad_dicomdir", "The DICOMDIR cannot be read"
    OUTSIDE_MEDIUM = "outside_medium", "The DICOMDIR names a file outside its folder"
    MISSING_FILE = "missing_file", "The DICOMDIR names a file that is missing, as is the whole study"


LOST = frozenset([*InputRefusal, Refusal.ARCHIVE, Refusal.VOLUME, Refusal.UNREADABLE])
"""Refusals of inputs that may hold whole studies, which were then not read."""

PASSING = frozenset({Refusal.UNREADABLE, Refusal.UNSUPPORTED_SYNTAX})
"""Refusals that may end while the file stays the same, as when a codec is installed."""


class OutputRefusal(Code):
    """Why no DICOM object of a study is written: codes of `refused_outputs.csv`."""

    NO_RESULT = "no_result", "The study could not be read, so there is nothing to report"
    UNREADABLE_SOURCE = "unreadable_source", "A file of the series can no longer be read"
    MISSING_ATTRIBUTE = "missing_attribute", "The source lacks what every object of a study carries"
    INVALID_UID = "invalid_uid", "A UID of the source is not valid"
    INVALID_VALUE = "invalid_value", "A value of the source cannot be written as it is"
    NO_CODE = "no_code", "No label of the model has a code, so a report would state no finding"
    CONFLICTING_SOURCES = "conflicting_sources", "The slices name different patients, studies or series"


class Odd(Code):
    """Why an image is not a slice of its series; details of other codes count them."""

    LOCALIZER = "localizer", "The image is a scout, by its ImageType"
    SECONDARY = "secondary", "The image is a screen or page, by its ImageType"
    ACROSS = "across", "The image lies across the slices of its series"
    NO_GEOMETRY = "no_geometry", "The image has no position or no orientation, which the slices have"
    NO_CT_IMAGE = "no_ct_image", "The image is in color, or its Modality or SOPClassUID is not that of CT"


class Quality(Code):
    """Data-quality problems: codes of `quality.csv`, beside those of unreadable files."""

    CONSTANT = "constant", "All pixels of the slice have one value"
    LITTLE_AIR = "little_air", "There is hardly any air around the head, as with a wrong intercept"
    LITTLE_TISSUE = (
        "little_tissue",
        "There is hardly any soft tissue, as above the head or with a wrong intercept",
    )
    MUCH_BONE = "much_bone", "There is more bone than a skull has, as with a wrong intercept"
    NO_POSITION = "no_position", "Some slices have no position, so their order is unknown"
    DUPLICATE_POSITION = "duplicate_position", "Several slices lie at the same position"
    GAP = "gap", "There is a gap between slices"
    NOT_MONOTONE = "not_monotone", "The positions jump back and forth in the order of InstanceNumber"
    MIXED_ORIENTATION = "mixed_orientation", "The slices have several tilts"
    MIXED_SPACING = "mixed_spacing", "The slices have several pixel sizes"
    MIXED_SHAPE = "mixed_shape", "The slices have several image sizes"
    MIXED_IMAGES = "mixed_images", "The series holds images that are not slices, such as a scout"
    SEVERAL_STACKS = "several_stacks", "The series holds several scans or reconstructions"
    NO_UNIT = "no_unit", "RescaleType leaves the unit of the pixels open"


KINDS: dict[str, type[Code]] = {
    "Reasons against a negative result": Reason,
    "Notes": Note,
    "Series that are set aside": SetAside,
    "Refused files": Refusal,
    "Refused parts of an input": InputRefusal,
    "Refused outputs": OutputRefusal,
    "Images that are not slices": Odd,
    "Data quality": Quality,
}
"""All kinds of codes by their title. Two kinds may share a code, each with a sentence of its own."""


def find_sentence(code: str, *kinds: type[Code]) -> str:
    """Finds the sentence of a code; a code of another version, which has none, is spelled out."""
    members = (member for kind in kinds for member in kind)
    return next((m.sentence for m in members if m == code), code.replace("_", " ").capitalize())


def describe_code(kind: type[Code], code: str, detail: str = "") -> str:
    """Says in a line what a code means and what was found.

    Args:
        kind: Kind of the code.
        code: The code; it may be of another version.
        detail: What was found, with its value.
    """
    return f"{': '.join(filter(None, [find_sentence(code, kind), detail]))} ({code})"


def make_page() -> str:
    """Returns the documentation of all codes as Markdown."""
    parts = [PAGE, _EXITS, make_table()]
    for title, kind in KINDS.items():
        parts.append(f"\n## {title}\n\n{inspect.getdoc(kind)}\n\n| code | meaning |\n|---|---|\n")
        parts += [f"| `{code}` | {code.sentence} |\n" for code in kind]
    return "".join(parts)
