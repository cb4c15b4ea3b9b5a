"""Why a file is refused."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """Why a file was refused: the codes of ``ReadError``, stable between versions."""

    UNREADABLE = "unreadable"  # the system does not open or read it
    NOT_FILE = "not_file"  # a folder, pipe, socket or device
    EMPTY = "empty"  # no bytes
    NOT_DICOM = "not_dicom"  # no DICOM file meta information (PS3.10 7.1)
    CORRUPT = "corrupt"  # not to be parsed or decoded, or contradicts itself
    TRUNCATED = "truncated"  # ends before its last element or pixel
    TOO_LARGE = "too_large"  # larger than any CT slice, perhaps only when inflated or decoded
    NO_PIXELS = "no_pixels"  # no Pixel Data
    NOT_CT = "not_ct"  # Modality is not CT
    COLOR = "color"  # several samples a pixel, or a palette
    MULTI_FRAME = "multi_frame"  # several frames, or Enhanced CT
    PIXEL_FORMAT = "pixel_format"  # bit fields that no CT slice has
    NO_RESCALE = "no_rescale"  # no slope and intercept that lead to HU
    NO_UID = "no_uid"  # lacks the UID of the instance, series or study
    CONSTANT = "constant"  # compressed pixels that decode to one value, as a codec's silent failure does
    CRASHED = "crashed"  # ends the process that decodes it
    TIMEOUT = "timeout"  # takes far longer to decode than any slice
    UNSUPPORTED_SYNTAX = "unsupported_syntax"  # no codec for its transfer syntax is installed
    ARCHIVE = "archive"  # an archive, or compressed as a whole, which is not unpacked here
    VOLUME = "volume"  # images in a format other than DICOM
    OTHER_KIND = "other_kind"  # hidden, or something else by its name, and no DICOM by its first bytes


class RefusedError(Exception):
    """A refusal before the name of the file is put to it."""

    def __init__(self, code: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.code = code
