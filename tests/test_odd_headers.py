"""Headers that break the rules of encoding, and can be understood all the same."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import uid
from slices import ROWS, STORED, compressed, make_slice, to_bytes

from ich.dicom import decoding, read_header, read_hu
from ich.dicom.attributes import read_attributes
from ich.schema import ReadError
from ich.schema.codes import Refusal

HU = STORED - 24
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END = b"\xfe\xff\0\xe0", b"\xfe\xff\x0d\xe0\0\0\0\0"
END = b"\xfe\xff\xdd\xe0\0\0\0\0"  # of a sequence
LONG = (b"OB", b"OW", b"SQ", b"UN", b"UT")
PRIVATE = 0x00191010


def explicit(tag: int, vr: bytes, value: bytes, length: int | None = None, wide: bool | None = None) -> bytes:
    """An element with its representation, and a length of 32 bits where that has one, or as ``wide`` says."""
    length = len(value) if length is None else length
    start = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    is_wide = vr in LONG if wide is None else wide
    return start + (struct.pack("<2xI", length) if is_wide else struct.pack("<H", length)) + value


def implicit(tag: int, value: bytes, length: int | None = None) -> bytes:
    length = len(value) if length is None else length
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, length) + value


def item(body: bytes) -> bytes:
    return ITEM + struct.pack("<I", UNDEFINED) + body + ITEM_END


def sequence(body: bytes, vr: bytes = b"SQ") -> bytes:
    return explicit(PRIVATE, vr, body, UNDEFINED)


NAMED, BARE = explicit(0x00191011, b"LO", b"abcd"), implicit(0x00191011, b"abcd")
NESTED = implicit(0x00191012, item(BARE) + END, UNDEFINED)
OPEN = ITEM + struct.pack("<I", UNDEFINED) + NAMED

BEFORE_PIXELS = {
    "implicit items": sequence(item(BARE) + END),
    "implicit items of a length": sequence(ITEM + struct.pack("<I", len(BARE)) + BARE + END),
    "implicit and explicit items": sequence(item(NAMED) + item(BARE) + item(NAMED + BARE) + END),
    "UN, implicit": sequence(item(BARE) + item(NESTED) + END, b"UN"),
    "UN, explicit": sequence(item(NAMED) + END, b"UN"),
    "UN, of no items": sequence(END, b"UN"),
    "OB, of bytes without items": sequence(b"anything" * 9000 + END, b"OB"),
    "UT, of text without items": sequence(b"anything" + END, b"UT"),
    "two ends of a sequence": sequence(item(NAMED) + END + END),
    "two ends of an item": sequence(OPEN + ITEM_END + ITEM_END + END),
    "two ends of both": sequence(OPEN + ITEM_END + ITEM_END + END + END),
    "an item without an end": sequence(OPEN + END),
    "an end after a length": explicit(PRIVATE, b"SQ", item(NAMED)) + END,
    "an end of nothing": ITEM_END + END,
    "an implicit element": implicit(PRIVATE, b"abcd" * 500),
    "implicit elements": b"".join(implicit(PRIVATE + n, b"a" * n) for n in (0, 4, 70_000)),
    "an implicit sequence": implicit(PRIVATE, item(BARE) + END, UNDEFINED),
    "a group after that of the pixels": explicit(0x7FE10010, b"OB", bytes(1000)),
    "padding of the data set": explicit(0xFFFCFFFC, b"OB", bytes(40)),
    "elements out of order": explicit(0x00200013, b"IS", b"7 ") + explicit(0x00080008, b"CS", b"AXIAL "),
    "zeros": bytes(8),
    "a length of 16 bits for OW": explicit(PRIVATE, b"OW", b"abcd", wide=False),
    "an icon": explicit(
        0x00880200, b"SQ", item(explicit(0x7FE00010, b"OW", b"abcd")) + END, length=UNDEFINED
    ),
}


def insert(element: bytes, syntax: str = uid.ExplicitVRLittleEndian) -> bytes:
    """A slice with something between its elements, before the UID of its study."""
    whole = to_bytes(make_slice(syntax=syntax))
    place = whole.index(b"\x20\0\x0d\0")
    return whole[:place] + element + whole[place:]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "slice.dcm"


def check(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    header = read_header(path)
    assert (header.SeriesInstanceUID, header.PatientID) == ("ID_series", "ID_0a")
    np.testing.assert_array_equal(read_hu(path), HU)
    attributes = read_attributes(path)
    assert (attributes.SeriesInstanceUID, attributes.Modality) == ("ID_series", "CT")


@pytest.mark.parametrize("kind", BEFORE_PIXELS)
def test_what_is_not_needed_is_skipped(path: Path, kind: str) -> None:
    check(path, insert(BEFORE_PIXELS[kind]))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("vr", [b"??", b"XX", b"ZZ", b"xs", b"ox", b"us", b"\0\0", b"  ", b"--", b"UK"])
@pytest.mark.parametrize("size", [0, 4, 40_000])
def test_a_representation_that_there_is_not_is_skipped_by_its_length(
    path: Path, vr: bytes, wide: bool, size: int
) -> None:
    check(path, insert(explicit(PRIVATE, vr, b"ab" * (size // 2), wide=wide)))


@pytest.mark.parametrize(
    "element",
    [
        implicit(PRIVATE, item(BARE) + END + END, UNDEFINED),
        implicit(PRIVATE, b"anything" + END, UNDEFINED),
        ITEM_END,
    ],
)
def test_what_is_not_needed_is_skipped_in_implicit_encoding(path: Path, element: bytes) -> None:
    check(path, insert(element, uid.ImplicitVRLittleEndian))


PLACES = (b"\x08\0\x60\0CS", b"\x20\0\x0d\0UI", b"\x28\0\x02\0US", b"\x28\0\x53\x10DS", b"\xe0\x7f\x10\0OW")
ODD = [*BEFORE_PIXELS.values(), *(explicit(PRIVATE, b"??", b"abcd", wide=wide) for wide in (False, True))]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(inserted=st.dictionaries(st.sampled_from(PLACES), st.sampled_from(ODD), min_size=1))
def test_odd_elements_anywhere_cost_no_slice(path: Path, inserted: dict[bytes, bytes]) -> None:
    content = to_bytes(make_slice())
    for place, element in inserted.items():
        head, found, tail = content.rpartition(place)
        content = head + element + found + tail
    check(path, content)


def split_meta(syntax: str) -> tuple[bytes, bytes, bytes]:
    """The prefix of a slice, its file meta information, and the rest."""
    whole = to_bytes(make_slice(syntax=syntax))
    place = whole.index(b"\x08\0\x18\0")
    return whole[:132], whole[132:place], whole[place:]


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_second_group_of_file_meta_information(path: Path, syntax: str) -> None:
    prefix, meta, rest = split_meta(syntax)
    check(path, prefix + meta + meta + rest)
    element = implicit(0x00020010, syntax.encode().ljust(20, b"\0"))
    check(path, prefix + element + rest)
    check(path, prefix + meta + element + rest)
    check(path, prefix + explicit(0x00020000, b"UL", struct.pack("<I", 4)) + meta + rest)


@pytest.mark.parametrize("said", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_data_set_in_the_other_encoding_than_it_says(path: Path, said: str) -> None:
    other = {uid.ExplicitVRLittleEndian: uid.ImplicitVRLittleEndian}.get(said, uid.ExplicitVRLittleEndian)
    prefix, meta, _ = split_meta(said)
    _, _, rest = split_meta(other)
    check(path, prefix + meta + rest)
    check(path, prefix + split_meta(other)[1] + meta + rest)


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless])
@pytest.mark.parametrize("first", ["\x08\0\x60\0CS", "\x20\0\x0e\0UI", "\x28\0\x02\0US", "\x28\0\x53\x10DS"])
def test_elements_behind_the_pixels_are_found(path: Path, syntax: str, first: str) -> None:
    whole = to_bytes(make_slice() if syntax == uid.ExplicitVRLittleEndian else compressed(syntax))
    start, pixels = whole.index(first.encode("latin-1")), whole.index(b"\xe0\x7f\x10\0O")
    check(path, whole[:start] + whole[pixels:] + whole[start:pixels])


def test_elements_behind_the_pixels_of_a_deflated_data_set(path: Path) -> None:
    meta = explicit(0x00020010, b"UI", uid.DeflatedExplicitVRLittleEndian.encode())
    whole = to_bytes(make_slice())
    start, pixels = whole.index(b"\x28\0\x02\0US"), whole.index(b"\xe0\x7f\x10\0OW")
    begin = whole.index(b"\x08\0\x18\0")
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    rest = whole[begin:start] + whole[pixels:] + whole[start:pixels]
    check(path, whole[:132] + meta + deflater.compress(rest) + deflater.flush())


def test_pydicom_has_the_last_word(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the walk fails for a reason of any kind, pydicom's reading is taken."""

    def fail(*_: object) -> None:
        raise ValueError("not understood")

    monkeypatch.setattr("ich.dicom.dataset.skim", lambda head: None)
    monkeypatch.setattr("ich.dicom.dataset.read_values", fail)
    for syntax in (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian):
        check(path, to_bytes(make_slice(STORED, syntax=syntax)))
    header = read_header(path)
    assert (header.position, header.WindowCenter, header.Rows) == (30.0, 40.0, ROWS)
    check(path, to_bytes(compressed(uid.JPEG2000Lossless)))
    check(path, to_bytes(make_slice(syntax=uid.DeflatedExplicitVRLittleEndian)))


def test_what_pydicom_cannot_read_either_keeps_its_reason(path: Path) -> None:
    path.write_bytes(insert(explicit(PRIVATE, b"LO", b"abcd", wide=True)))
    for read in (read_header, read_hu):
        with pytest.raises(ReadError) as caught:
            read(path)
        assert caught.value.code in (Refusal.CORRUPT, Refusal.TRUNCATED)


def test_a_patient_is_not_quoted_where_pydicom_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """pydicom's errors quote values: the process that runs it hands none of them on."""
    program = "from ich.dicom import decoding\n"
    program += "def walk(data, tags): raise ValueError('Doe^Jane of 1970')\n"
    program += "decoding.walk = walk\ndecoding.serve()"
    monkeypatch.setattr(decoding, "_COMMAND", [*decoding._COMMAND[:-1], program])
    decoding._close_all()
    try:
        with pytest.raises(Exception, match="ValueError") as caught:
            decoding.walk_apart(b"", ())
        assert "Doe" not in str(caught.value)
        path.write_bytes(insert(b"\x01" * 4))
        with pytest.raises(ReadError) as refused:
            read_hu(path)
        assert "Doe" not in str(refused.value)
    finally:
        decoding._close_all()


def test_a_file_without_pixels_is_not_a_slice_for_pydicom_either(path: Path) -> None:
    for changes in ({"PixelData": None}, {"PixelData": None, "Modality": "SR"}):
        path.write_bytes(to_bytes(make_slice(**changes)))
        with pytest.raises(ReadError) as caught:
            read_header(path)
        assert caught.value.code == Refusal.NO_PIXELS


@pytest.mark.parametrize("order", ["big", "little"])
def test_the_order_of_bytes_holds_within_odd_elements(path: Path, order: str) -> None:
    syntax = uid.ExplicitVRBigEndian if order == "big" else uid.ExplicitVRLittleEndian
    ds = make_slice(syntax=syntax)
    whole = to_bytes(ds)
    mark = "><"[order == "little"]
    place = whole.index(struct.pack(f"{mark}HH", 0x20, 0x0D))
    ends = struct.pack(f"{mark}HHI", 0xFFFE, 0xE0DD, 0)
    element = struct.pack(f"{mark}HH2s2xI", 0x19, 0x1010, b"OB", UNDEFINED) + b"anything" * 3 + ends + ends
    odd = struct.pack(f"{mark}HH2s2xI", 0x19, 0x1011, b"??", 4) + b"abcd"
    check(path, whole[:place] + element + odd + whole[place:])
