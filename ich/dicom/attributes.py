"""Reads the study and series attributes of any DICOM file, CT slice or not."""

from __future__ import annotations

import io
import math
import os
import zlib
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

from pydicom import uid

from ich.dicom.dataset import ask_pydicom
from ich.dicom.elements import PIXELS, UIDS, Tag, Values, read_syntax, read_value
from ich.dicom.files import File, read_file
from ich.dicom.refusal import RefusedError
from ich.dicom.skimming import HEAD, skim_values, swap
from ich.dicom.stream import DELIMITERS, Stream
from ich.schema.codes import Refusal

_LAST = Tag.RescaleType  # of the elements that are looked for; elements stand in the order of their tags
_INFLATED = 1 << 20  # bytes of a deflated data set, far beyond what comes before the last of them
_DEFLATED = str.__str__(uid.DeflatedExplicitVRLittleEndian)


class Attributes(NamedTuple):
    """Texts as stored, under their DICOM keywords; empty if the file lacks one.

    Several values of an attribute form one text with backslashes. For a sequence, only its presence is given.
    """

    SOPClassUID: str = ""
    SOPInstanceUID: str = ""
    StudyInstanceUID: str = ""
    SeriesInstanceUID: str = ""
    PatientID: str = ""
    Modality: str = ""
    ImageType: str = ""
    SeriesDescription: str = ""
    StudyDescription: str = ""
    ProtocolName: str = ""
    BodyPartExamined: str = ""
    ConvolutionKernel: str = ""
    ContrastBolusAgent: str = ""
    ContrastBolusAgentSequence: str = ""
    SliceThickness: str = ""
    SeriesNumber: str = ""
    AcquisitionNumber: str = ""
    InstanceNumber: str = ""
    NumberOfFrames: str = ""
    FrameOfReferenceUID: str = ""
    ImageOrientationPatient: str = ""
    RescaleType: str = ""


_FIELDS = tuple(Tag[name] for name in Attributes._fields)
_TAGS = frozenset(map(int, (Tag.SpecificCharacterSet, *_FIELDS)))
_SWAPPED = {swap(tag): tag for tag in _TAGS}


def read_attributes(path: str | os.PathLike[str]) -> Attributes:
    """Reads the attributes of a DICOM file of any kind, without pixels.

    If a file is damaged, or cannot be read as a slice, the values before the damage are still read, or those
    that pydicom finds.

    Raises:
        ReadError: If the file cannot be opened or is not a DICOM file (PS3.10 7.1); its code is a
            ``Refusal``.
    """
    return read_file(os.fspath(path), _read_attributes, most=math.inf)


def _read_attributes(file: File, size: int) -> Attributes:
    with _open(file) as opened:
        head = opened.peek()
        if head[128:132] != b"DICM":
            raise RefusedError(Refusal.NOT_DICOM, "lacks the prefix DICM after 128 bytes")
        opened.seek(132)
        values = Values("little")
        try:
            is_whole = _fill(values, Stream(opened, size), head)
        except (EOFError, ValueError, RefusedError, zlib.error):
            is_whole = False
    lacks = not is_whole and not all(map(values.raw.get, UIDS))
    if lacks and (found := ask_pydicom(file, size, _TAGS)) is not None:
        values = found.values
    if values.raw.get(Tag.ContrastBolusAgentSequence):
        values.raw[Tag.ContrastBolusAgentSequence] = b"present"
    return Attributes(*map(values.whole, _FIELDS))


def _open(file: File) -> AbstractContextManager[io.BufferedReader]:
    if isinstance(file, int):
        return io.BufferedReader(io.FileIO(file, closefd=False), HEAD)
    return nullcontext(file)


def _fill(values: Values, stream: Stream, head: bytes) -> bool:
    """Reads values one by one, so that those before a damage are kept; returns whether all were seen."""
    if read_syntax(stream) == _DEFLATED:
        head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(stream.file.read(_INFLATED), _INFLATED)
        stream = Stream(io.BytesIO(head), len(head))
    # By the first element, not the transfer syntax, which may be missing or not known: its group is below
    # 256, and its representation two letters, which as the start of a length would be thousands of bytes.
    offset = stream.file.tell()
    start = stream.take(6)
    explicit = start[4:].isalpha() and start[4:].isupper()
    values.order = stream.order = "big" if start[0] == 0 else "little"
    if values.order == "little":
        offset = skim_values(head, offset, explicit, _SWAPPED, values.raw)
    stream.file.seek(offset)
    while (element := stream.next(explicit)) is not None:
        if element.tag in DELIMITERS:
            continue  # one too many
        if element.tag in PIXELS or (element.tag > _LAST and all(map(values.raw.get, UIDS))):
            return False
        if element.tag in _TAGS and element.tag != Tag.ContrastBolusAgentSequence:
            values.raw[element.tag] = read_value(stream, element)
        else:
            stream.skip(element, explicit)
            if element.tag == Tag.ContrastBolusAgentSequence and element.length:
                values.raw[element.tag] = b"present"
    return True
