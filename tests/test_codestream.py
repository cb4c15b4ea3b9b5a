"""Compressed pixels as others write them; the index accepts what can be decoded and nothing else."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jpeg12
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from slices import COLUMNS, ROWS, STORED, compressed, make_slice, to_bytes

from ich.dicom import codecs, read_blocks, read_header, read_hu
from ich.schema import ReadError
from ich.schema.codes import Refusal

RAMP = np.add.outer(np.arange(ROWS) * 3, np.arange(COLUMNS))  # 0 to 180
JPEG_2000 = (uid.JPEG2000Lossless, uid.JPEG2000)


def make_jpeg(**settings: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint8)).save(buffer, "jpeg", quality=100, **settings)
    return buffer.getvalue()


def put_frame(ds: Dataset, *fragments: bytes) -> Dataset:
    ds.PixelData = encapsulate([b"".join(fragments)], fragments_per_frame=1 if len(fragments) == 1 else 3)
    ds["PixelData"].is_undefined_length = True
    return ds


def make_8_bits(syntax: str, frame: bytes, allocated: int = 8) -> Dataset:
    ds = make_slice(RAMP, bits=8, signed=0, BitsAllocated=allocated)
    ds.file_meta.TransferSyntaxUID = syntax
    return put_frame(ds, frame)


def find_frame(ds: Dataset) -> bytes:
    return next(generate_frames(ds.PixelData, number_of_frames=1)).rstrip(b"\0")


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def wrap_in_jp2(stream: bytes, last: Callable[[bytes], bytes] = lambda s: box(b"jp2c", s)) -> bytes:
    """The boxes of ITU-T T.800 annex I that a gray image of 16 bits has."""
    header = box(b"ihdr", struct.pack(">IIHBBBB", ROWS, COLUMNS, 1, 15, 7, 0, 0))
    header += box(b"colr", struct.pack(">BBBI", 1, 0, 0, 17))
    start = box(b"jP  ", b"\r\n\x87\n") + box(b"ftyp", b"jp2 \0\0\0\0jp2 ")
    return start + box(b"jp2h", header) + last(stream)


def fill(stream: bytes) -> bytes:
    """Puts fill bytes before each marker up to the first scan, and before the last."""
    filled, offset, marker = b"\xff" * 3 + stream[:2], 2, 0
    while marker != 0xDA:
        marker, length = struct.unpack_from(">xBH", stream, offset)
        filled += b"\xff" * 2 + stream[offset : offset + 2 + length]
        offset += 2 + length
    return filled + stream[offset:-2] + b"\xff\xff" + stream[-2:]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Dataset], Path]:
    def write(ds: Dataset) -> Path:
        path = tmp_path / "slice.dcm"
        path.write_bytes(to_bytes(ds))
        return path

    return write


def read_both(path: Path) -> NDArray[np.int16]:
    """HU of a slice, of which the index knows that it can be read."""
    header = read_header(path)
    hu = read_hu(path)
    assert hu.shape == (header.Rows, header.Columns)
    assert len(read_blocks(path)) > 8
    return hu


def refuse_both(path: Path) -> str:
    """The code by which index and reading refuse a file alike."""
    codes = set()
    for read in (read_header, read_hu):
        with pytest.raises(ReadError) as caught:
            read(path)
        codes.add(caught.value.code)
    assert len(codes) == 1
    return codes.pop()


@pytest.mark.parametrize("syntax", JPEG_2000)
@pytest.mark.parametrize(
    "last",
    [
        lambda stream: box(b"jp2c", stream),
        lambda stream: struct.pack(">I4sQ", 1, b"jp2c", 16 + len(stream)) + stream,
        lambda stream: struct.pack(">I4s", 0, b"jp2c") + stream,  # to the end
        lambda stream: box(b"uuid", bytes(9000)) + box(b"jp2c", stream) + box(b"xml ", b"<a/>"),
    ],
)
def test_jpeg_2000_in_a_jp2_header(write, syntax, last) -> None:
    ds = compressed(uid.JPEG2000Lossless)
    ds.file_meta.TransferSyntaxUID = syntax
    hu = read_both(write(put_frame(ds, wrap_in_jp2(find_frame(ds), last))))
    np.testing.assert_array_equal(hu, STORED - 24)


def test_a_jp2_header_in_fragments(write) -> None:
    ds = compressed(uid.JPEG2000Lossless)
    ds.PixelData = encapsulate([wrap_in_jp2(find_frame(ds))], fragments_per_frame=40)
    np.testing.assert_array_equal(read_both(write(ds)), STORED - 24)


@pytest.mark.parametrize("boxes", [lambda s: b"", lambda s: box(b"jp2c", s[: len(s) // 2]), lambda s: s[:20]])
def test_a_jp2_header_without_a_whole_stream_is_refused(write, boxes) -> None:
    ds = compressed(uid.JPEG2000Lossless)
    frame = wrap_in_jp2(find_frame(ds), boxes)
    assert refuse_both(write(put_frame(ds, frame))) in (Refusal.CORRUPT, Refusal.TRUNCATED)


@pytest.mark.parametrize("tail", [bytes(50), b"\xff" * 50, b"more\xff\xd9bytes", b"x" * 9000])
@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_bytes_after_the_end_marker_are_passed_over(write, syntax, tail) -> None:
    ds = compressed(syntax)
    hu = read_both(write(put_frame(ds, find_frame(ds) + tail)))
    np.testing.assert_array_equal(hu, STORED - 24)


@pytest.mark.parametrize("tail", [b"", bytes(50), b"x" * 9000])
@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit])
@pytest.mark.parametrize("allocated", [8, 16])
def test_fill_bytes_before_markers(write, syntax, allocated, tail) -> None:
    hu = read_both(write(make_8_bits(syntax, fill(make_jpeg()) + tail, allocated)))
    assert np.abs(hu - (RAMP - 24)).max() <= 1


def test_fill_bytes_before_markers_of_jpeg_ls(write) -> None:
    ds = compressed(uid.JPEGLSLossless)
    np.testing.assert_array_equal(read_both(write(put_frame(ds, fill(find_frame(ds))))), STORED - 24)


@pytest.mark.parametrize(
    "make", [lambda: make_jpeg(progressive=True), lambda: make_jpeg(comment=b"c" * 9000)]
)
def test_other_kinds_of_jpeg_that_are_decoded(write, make) -> None:
    hu = read_both(write(make_8_bits(uid.JPEGBaseline8Bit, make())))
    assert np.abs(hu - (RAMP - 24)).max() <= 1


CUTS: list[Callable[[bytes], bytes]] = [
    lambda frame: frame[: len(frame) // 2],
    lambda frame: frame[:-2],
    lambda frame: frame[:30],
    lambda frame: frame[:2],
    lambda frame: b"\xff" * 30,
    lambda frame: b"\0" + frame,
]


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit])
def test_the_index_refuses_a_stream_that_is_cut(write, syntax, cut) -> None:
    if syntax == uid.JPEGBaseline8Bit:
        ds = make_8_bits(syntax, cut(make_jpeg()))
    else:
        ds = compressed(syntax)
        put_frame(ds, cut(find_frame(ds)))
    assert refuse_both(write(ds)) in (Refusal.CORRUPT, Refusal.TRUNCATED)


@pytest.mark.parametrize("cut", [lambda f: f[:40], lambda f: f[:66], lambda f: b"\1" + f[1:]])
def test_the_index_refuses_rle_without_its_segments(write, cut) -> None:
    ds = compressed(uid.RLELossless)
    assert refuse_both(write(put_frame(ds, cut(find_frame(ds))))) in (Refusal.CORRUPT, Refusal.TRUNCATED)


def test_the_index_refuses_a_file_that_ends_within_its_fragments(write) -> None:
    path = write(compressed(uid.JPEG2000Lossless))
    path.write_bytes(path.read_bytes()[:-60])
    assert refuse_both(path) == Refusal.TRUNCATED


def test_index_and_reading_agree_on_streams_under_any_transfer_syntax(write) -> None:
    streams = [find_frame(compressed(s)) for s in (uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless)]
    streams += [make_jpeg(), jpeg12.encode(RAMP * 8, 1)[0]]
    outcomes = set()
    for syntax in sorted(codecs.ENCAPSULATED):
        for stream in streams:
            for allocated, bits in ((8, 8), (16, 8), (16, 12), (16, 16)):
                ds = make_slice(STORED, bits=bits, signed=0, BitsAllocated=allocated)
                ds.file_meta.TransferSyntaxUID = syntax
                path = write(put_frame(ds, stream))
                try:
                    read_header(path)
                except ReadError:
                    refuse_both(path)
                    outcomes.add("refused")
                else:
                    read_hu(path)
                    outcomes.add("read")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("marker", [b"\xff\xc9", b"\xff\xc5"])
def test_kinds_of_jpeg_without_a_codec_are_refused_by_the_index(write, marker) -> None:
    frame = make_jpeg().replace(b"\xff\xc0", marker, 1)  # with arithmetic coding, hierarchical
    assert refuse_both(write(make_8_bits(uid.JPEGBaseline8Bit, frame))) == Refusal.CORRUPT


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
@pytest.mark.parametrize("value", [0, 1000])
def test_a_frame_that_decodes_to_one_value_is_refused(write, syntax, value) -> None:
    path = write(compressed(syntax, stored=np.full((ROWS, COLUMNS), value)))
    read_header(path)
    with pytest.raises(ReadError, match=f"all decode to {value}") as caught:
        read_hu(path)
    assert caught.value.code == Refusal.CONSTANT


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.DeflatedExplicitVRLittleEndian])
def test_a_slice_of_air_that_is_not_compressed_is_read(write, syntax) -> None:
    hu = read_both(write(make_slice(np.full((ROWS, COLUMNS), -976), syntax=syntax)))
    assert set(hu.flat) == {-1000}


def make_12_bits(
    values: NDArray[np.int_], step: int = 4, **changes: Any
) -> tuple[Dataset, NDArray[np.float64]]:
    stream, decoded = jpeg12.encode(values, step)
    ds = make_slice(values, **({"bits": 12, "signed": 0, "RescaleIntercept": -1024.0} | changes))
    ds.file_meta.TransferSyntaxUID = uid.JPEGExtended12Bit
    return put_frame(ds, stream), decoded


def test_lossy_jpeg_of_12_bits(write) -> None:
    values = np.clip(STORED, 0, 4095)  # noise from end to end, so that decoded values leave the range
    ds, decoded = make_12_bits(values)
    hu = read_both(write(ds))
    assert np.abs(decoded - values).max() > 2
    assert np.abs(hu - (decoded - 1024)).max() <= 1


@pytest.mark.parametrize("bits", [10, 16])
def test_lossy_jpeg_of_12_bits_in_other_bits(write, bits) -> None:
    ds, decoded = make_12_bits(np.clip(STORED, 0, 1023), bits=bits)
    hu = read_both(write(ds))
    assert np.abs(hu - (np.clip(decoded, 0, (1 << bits) - 1) - 1024)).max() <= 1


def test_lossy_jpeg_of_12_bits_that_are_signed(write) -> None:
    values = RAMP * 10 - 900  # as two's complement in 12 bits
    ds, _ = make_12_bits(values & 4095, step=1, signed=1, RescaleIntercept=0.0)
    hu = read_both(write(ds))
    inside = (
        np.abs(values) > 64
    )  # where the signs meet, values of 12 bits leap, which is what lossy coding smooths
    assert np.abs(hu - values)[inside].max() <= 3


def test_lossy_jpeg_of_12_bits_that_pydicom_ships(write) -> None:
    """Its values by SimpleITK 2.5.7, DICOMSDL 0.109.4 and a decoder written from T.81, which agree."""
    ds = pydicom.dcmread(get_testdata_file("JPEG-lossy.dcm"))
    ds.Modality, ds.SOPClassUID = "CT", uid.CTImageStorage
    ds.RescaleSlope, ds.RescaleIntercept, ds.NumberOfFrames = 1, -1024, 1
    hu = read_both(write(ds))
    assert (hu.min(), hu.max()) == (-1024, 264 - 1024)
    assert hu.mean() == pytest.approx(14.36999 - 1024, abs=1e-4)


def test_lossy_jpeg_of_12_bits_without_gdcm_is_refused_by_name(write, monkeypatch) -> None:
    ds, _ = make_12_bits(np.clip(STORED, 0, 4095))
    path = write(ds)
    decoder = SimpleNamespace(is_available=True, available_plugins=("pillow",))
    monkeypatch.setitem(codecs.DECODERS, uid.JPEGExtended12Bit, decoder)
    assert refuse_both(path) == Refusal.UNSUPPORTED_SYNTAX
    with pytest.raises(
        ReadError, match=r"JPEG Extended .* of 12 bits is installed: pip install 'ich\[codecs\]'"
    ):
        read_header(path)
