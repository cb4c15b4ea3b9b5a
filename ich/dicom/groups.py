"""Reads the functional groups of the frames of a multi-frame image (PS3.3 C.7.6.16)."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom import uid

from ich.dicom.elements import PIXELS, Tag, Values, read_value
from ich.dicom.stream import DELIMITERS, UNDEFINED, Element, Stream

# Python texts, because a UID of pydicom takes several times as long to compare.
ENHANCED = tuple(map(str.__str__, (uid.EnhancedCTImageStorage, uid.LegacyConvertedEnhancedCTImageStorage)))
"""SOP classes of CT images with several frames."""

_SHARED, _PER_FRAME, _FRAME_OFFSET = 0x52009229, 0x52009230, 0x00209228
_ITEM = 0xFFFEE000
_MACROS = frozenset(
    (
        0x00289110,  # Pixel Measures
        0x00209113,  # Plane Position (Patient)
        0x00209116,  # Plane Orientation (Patient)
        0x00289145,  # Pixel Value Transformation
        0x00289132,  # Frame VOI LUT
        0x00209111,  # Frame Content
        0x00189329,  # CT Image Frame Type
        0x00189314,  # CT Reconstruction
        0x00209170,  # Unassigned Shared Converted Attributes
        0x00209171,  # Unassigned Per-Frame Converted Attributes
    )
)
_ACQUISITION, _STACK, _TIME_INDEX = 0x00209156, 0x00209056, 0x00209128
_WANTED = {
    0x00089007: Tag.ImageType,  # FrameType
    0x00189074: Tag.AcquisitionTime,  # FrameAcquisitionDateTime
    **{
        int(tag): tag
        for tag in (
            Tag.ImagePositionPatient,
            Tag.ImageOrientationPatient,
            Tag.PixelSpacing,
            Tag.SliceThickness,
            Tag.RescaleSlope,
            Tag.RescaleIntercept,
            Tag.RescaleType,
            Tag.WindowCenter,
            Tag.WindowWidth,
            Tag.ConvolutionKernel,
        )
    },
    **{tag: tag for tag in (_ACQUISITION, _STACK, _TIME_INDEX)},
}
"""Elements of the macros, and under which tag a file of one slice has the same."""

Raw = dict[int, bytes]


def has_groups(values: Values) -> bool:
    """Whether a data set has functional groups."""
    return Tag.SharedFunctionalGroupsSequence in values.raw


def read_groups(stream: Stream, explicit: bool) -> list[Raw]:
    """Reads the functional groups, from a stream at the first element of a data set.

    Returns:
        For each frame, the raw values of a file with only this slice. InstanceNumber is the number of the
        frame, counted over the whole if the file is a part of a concatenation (PS3.3 C.7.6.16.2.2.4).
    """
    shared: Raw = {}
    frames: list[Raw] = [{}]
    first = 0
    while (element := stream.next(explicit)) is not None and element.tag not in PIXELS:
        if element.tag == _SHARED:
            for item in _list_items(stream, element):
                shared |= _read_macros(stream, item, explicit)
        elif element.tag == _PER_FRAME:
            frames = [_read_macros(stream, item, explicit) for item in _list_items(stream, element)]
        elif element.tag == _FRAME_OFFSET and element.length == 4:
            first = int.from_bytes(stream.take(4), stream.order)
        else:
            stream.skip(element, explicit)
    return [_complete(shared | frame, first + n, stream) for n, frame in enumerate(frames, 1)]


def make_values(values: Values, frame: Raw, frames: int) -> Values:
    """Returns the values of a file with only one frame; a single frame has the file's number."""
    raw = values.raw | frame
    if frames == 1 and (number := values.raw.get(Tag.InstanceNumber)):
        raw[Tag.InstanceNumber] = number
    for tag in (Tag.SharedFunctionalGroupsSequence, Tag.NumberOfFrames):
        raw.pop(tag, None)
    return Values(values.order, raw)


def _complete(raw: Raw, number: int, stream: Stream) -> Raw:
    """Names the scan of a frame by its stack, and numbers it."""
    acquisition, stack, time = (raw.pop(tag, b"") for tag in (_ACQUISITION, _STACK, _TIME_INDEX))
    names = [_to_text(acquisition, stream), stack.strip(b" \0"), _to_text(time, stream)]
    if any(names):
        raw[Tag.AcquisitionNumber] = b"\\".join(names).rstrip(b"\\")
    raw[Tag.InstanceNumber] = b"%d" % number
    return raw


def _to_text(value: bytes, stream: Stream) -> bytes:
    return b"%d" % int.from_bytes(value, stream.order) if value else b""


def _read_macros(stream: Stream, item: Element, explicit: bool) -> Raw:
    raw: Raw = {}
    for macro in _list_elements(stream, item, explicit):
        if macro.tag not in _MACROS:
            stream.skip(macro, explicit)
            continue
        for inner in _list_items(stream, macro):
            for element in _list_elements(stream, inner, explicit):
                tag = _WANTED.get(element.tag)
                if tag is None or tag in raw or element.length == UNDEFINED:
                    stream.skip(element, explicit)
                else:
                    raw[tag] = read_value(stream, element)
    return raw


def _list_items(stream: Stream, sequence: Element) -> Iterator[Element]:
    if sequence.length == UNDEFINED:
        yield from stream.items()
        return
    end = stream.file.tell() + sequence.length
    while stream.file.tell() < end:
        item = stream.next(explicit=False)
        if item is None or item.tag != _ITEM:
            raise ValueError("has a functional group that does not begin with an item")
        yield item


def _list_elements(stream: Stream, item: Element, explicit: bool) -> Iterator[Element]:
    end = None if item.length == UNDEFINED else stream.file.tell() + item.length
    while end is None or stream.file.tell() < end:
        element = stream.next(explicit)
        if element is None or element.tag in DELIMITERS:
            return
        yield element
