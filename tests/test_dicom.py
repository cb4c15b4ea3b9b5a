import logging
import math
import os
import pickle
import random
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut
from slices import COLUMNS, ROWS, STORED, compressed, make_slice, to_bytes

from ich.dicom import codecs, read_header, read_hu
from ich.dicom.files import MAX_BYTES
from ich.dicom.header import Header
from ich.schema import ReadError
from ich.schema.codes import Refusal
from ich.tables import HEADER_DTYPES


@pytest.fixture
def write(tmp_path):
    """Writes a data set, or bytes, and returns the path."""

    def write(content, name="slice.dcm"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else to_bytes(content))
        return path

    return write


def refusal(read, path):
    with pytest.raises(ReadError) as caught:
        read(path)
    assert caught.value.path == str(path)
    assert caught.value.detail
    return caught.value


def test_header_has_the_columns_of_the_index():
    columns = set(HEADER_DTYPES) - {"path", "file_size", "mtime_ns"}
    assert set(Header._fields) == columns


DESCRIPTIONS = (
    *("RescaleType", "ImageType", "AcquisitionNumber", "ConvolutionKernel", "AcquisitionTime", "ContentTime"),
)


def test_header_of_an_rsna_slice(write, caplog):
    caplog.set_level(logging.INFO)
    path = write(make_slice(syntax=uid.ImplicitVRLittleEndian))
    header = read_header(path)
    values = header._asdict()
    assert math.isnan(values.pop("InstanceNumber"))
    assert values == {
        "SOPInstanceUID": "ID_000000001",
        "PatientID": "ID_0a",
        "StudyInstanceUID": "ID_study",
        "SeriesInstanceUID": "ID_series",
        "frame": 0,
        "position": 30.0,
        "tilt": 0.0,
        "orientation": 0,
        "Rows": ROWS,
        "Columns": COLUMNS,
        "row_spacing": 0.5,
        "column_spacing": 0.4,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "PixelRepresentation": 1,
        "RescaleSlope": 1.0,
        "RescaleIntercept": -24.0,
        "WindowCenter": 40.0,
        "WindowWidth": 80.0,
        "TransferSyntaxUID": "1.2.840.10008.1.2",
        "padding_low": 0,
        "padding_high": -1,
        "pixel_offset": path.stat().st_size - STORED.size * 2,
        **dict.fromkeys(DESCRIPTIONS, ""),
    }
    assert not caplog.records


@pytest.mark.parametrize(
    ("orientation", "position", "tilt"),
    [
        # Rotated about x: the normal is (0, sin, cos), so that 10 mm along y and 30 along z project to it.
        ([1, 0, 0, 0, 0.927184, -0.374607], 10 * 0.374607 + 30 * 0.927184, 22.0),
        ([1, 0, 0, 0, 0.990268, 0.139173], 10 * -0.139173 + 30 * 0.990268, -8.0),
        ([-1, 0, 0, 0, 1, 0], 30.0, 0.0),  # mirrored: row x column points to the feet
        ([-1, 0, 0, 0, -1, 0], 30.0, 0.0),  # prone
        ([1, 0, 0, 0, 0, -1], 10.0, 90.0),  # coronal
    ],
)
def test_position_and_tilt_come_from_the_slice_normal(write, orientation, position, tilt):
    ds = make_slice(ImageOrientationPatient=orientation, ImagePositionPatient=[7, 10, 30])
    header = read_header(write(ds))
    assert header.position == pytest.approx(position, abs=1e-4)
    assert header.tilt == pytest.approx(tilt, abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"ImageOrientationPatient": None}, ["position", "tilt"]),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, ["position", "tilt"]),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1]}, ["position", "tilt"]),
        ({"ImagePositionPatient": None}, ["position"]),
        ({"ImagePositionPatient": ["0", "nan", "1"]}, ["position"]),
        ({"PixelSpacing": None}, ["row_spacing", "column_spacing"]),
        ({"PixelSpacing": [0, 0.5]}, ["row_spacing"]),
        ({"WindowCenter": None, "WindowWidth": None}, ["WindowCenter", "WindowWidth"]),
        ({"WindowCenter": "", "WindowWidth": 0}, ["WindowCenter", "WindowWidth"]),
    ],
)
def test_what_is_absent_or_malformed_is_nan(write, changes, fields):
    values = read_header(write(make_slice(InstanceNumber=7, **changes)))._asdict()
    assert [name for name, value in values.items() if value != value] == fields


def test_patient_id_follows_its_character_set(write):
    ds = make_slice(SpecificCharacterSet="ISO_IR 144", PatientID="Иванов")
    assert read_header(write(ds)).PatientID == "Иванов"


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
)
@pytest.mark.parametrize(("bits", "signed"), [(16, 1), (16, 0), (12, 0), (12, 1)])
def test_native_encodings(write, syntax, bits, signed):
    stored = np.clip(STORED, 0 if not signed else -900, 2000)
    path = write(make_slice(stored, bits, signed, syntax, RescaleIntercept=-1024.0 * (1 - signed)))
    assert np.array_equal(read_hu(path), stored - 1024 * (1 - signed))


@pytest.mark.parametrize(
    "syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless], ids=lambda syntax: syntax.keyword
)
@pytest.mark.parametrize(("bits", "signed"), [(16, 1), (12, 0), (13, 1)])
def test_compressed_twin_equals_uncompressed(write, syntax, bits, signed):
    stored = np.clip(STORED, 0 if not signed else -900, 3000)
    settings = {"stored": stored, "bits": bits, "signed": signed, "RescaleIntercept": -1024.0}
    twin = write(compressed(syntax, **settings), "twin.dcm")
    assert read_header(twin).TransferSyntaxUID == syntax
    assert np.array_equal(read_hu(twin), np.clip(stored - 1024, -1024, None))


def test_a_frame_in_several_fragments(write):
    ds = compressed(uid.JPEG2000Lossless)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame], fragments_per_frame=3)
    assert np.array_equal(read_hu(write(ds)), np.clip(STORED - 24, -1024, None))


# The second is JPEG 2000 whose signedness disagrees with PixelRepresentation.
@pytest.mark.parametrize("name", ["CT_small.dcm", "J2K_pixelrep_mismatch.dcm"])
def test_files_of_pydicom(name):
    path = get_testdata_file(name)
    ds = pydicom.dcmread(path)
    expected = np.clip(apply_modality_lut(ds.pixel_array, ds), -1024, None)
    hu = read_hu(path)
    assert hu.dtype == np.int16
    assert np.array_equal(hu, expected)
    header = read_header(path)
    assert (header.SOPInstanceUID, header.PatientID) == (ds.SOPInstanceUID, ds.PatientID)
    assert header.row_spacing == ds.PixelSpacing[0]


def test_a_slope_that_is_not_an_integer_rounds_to_the_nearest(write):
    path = write(make_slice(RescaleSlope=0.7, RescaleIntercept=-10.25))
    assert np.array_equal(read_hu(path), np.rint(STORED * 0.7 - 10.25))


@pytest.mark.parametrize("intercept", [0.0, 1.0, -99.0])
def test_the_quirk_is_mended(write, intercept):
    stored = np.array([[0, 1000, 3095, 3096, 3196, 4095]])  # +1000, wrapped at 4096, -1000
    path = write(make_slice(stored, 12, 0, RescaleIntercept=intercept))
    assert read_hu(path).tolist() == [[0, 1000, 3095, -1000, -900, -1]]


@pytest.mark.parametrize(("bits", "signed", "intercept"), [(12, 0, -1024.0), (12, 1, 0.0), (16, 0, 0.0)])
def test_what_only_resembles_the_quirk_is_left(write, bits, signed, intercept):
    stored = np.array([[0, 1000, 2000]])
    hu = read_hu(write(make_slice(stored, bits, signed, RescaleIntercept=intercept)))
    assert np.array_equal(hu, stored + int(intercept))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [-1024, -1024, 0, 500, 600, 700, 32767]),  # padding without a tag lies below the scale
        ({"PixelPaddingValue": 600}, [-1024, -1024, 0, 500, -1024, 700, 32767]),
        (
            {"PixelPaddingValue": 700, "PixelPaddingRangeLimit": 500},
            [-1024, -1024, 0, -1024, -1024, -1024, 32767],
        ),
        ({"RescaleIntercept": 100.0}, [-1024, -1024, 100, 600, 700, 800, 32767]),
        ({"PhotometricInterpretation": "MONOCHROME1"}, [-1024, -1024, 0, 500, 600, 700, 32767]),
    ],
)
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_padding_and_the_ends_of_the_scale(write, syntax, changes, expected):
    stored = np.array([[-3024, -2000, 0, 500, 600, 700, 32767]])
    ds = make_slice(stored, syntax=syntax, **({"RescaleIntercept": 0.0} | changes))
    assert read_hu(write(ds)).tolist() == [expected]


@pytest.mark.parametrize(("signed", "expected"), [(0, [5 - 1024, 4095 - 1024]), (1, [5, -1])])
def test_bits_beyond_the_stored_ones_are_ignored(write, signed, expected):
    stored = np.array([[0x1005, 0x7FFF]])  # an overlay in the upper four bits
    path = write(make_slice(stored, 12, signed, RescaleIntercept=-1024.0 * (1 - signed)))
    assert read_hu(path).tolist() == [expected]


def test_excess_padding_of_the_pixels_is_dropped(write):
    ds = make_slice()
    ds.PixelData += bytes(10)
    assert np.array_equal(read_hu(write(ds)), STORED - 24)


def test_sequences_and_large_private_values_are_passed_over(write):
    inner = Dataset()
    inner.Rows, inner.RescaleSlope = 1, 9.0
    ds = make_slice(SourceImageSequence=[inner, inner])
    ds["SourceImageSequence"].is_undefined_length = True
    inner.is_undefined_length_sequence_item = True
    ds.add_new(0x00090010, "LO", "VENDOR")
    ds.add_new(0x00091001, "OB", bytes(100_000))
    path = write(ds)
    assert read_header(path).Rows == ROWS
    assert np.array_equal(read_hu(path), STORED - 24)


REFUSED = [
    (Refusal.NOT_CT, {"Modality": "MR"}),
    (Refusal.NOT_CT, {"Modality": None}),
    (Refusal.NO_PIXELS, {"PixelData": None}),
    (Refusal.NO_PIXELS, {"PixelData": None, "FloatPixelData": bytes(4 * ROWS * COLUMNS)}),
    (Refusal.COLOR, {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}),
    (Refusal.COLOR, {"PhotometricInterpretation": "PALETTE COLOR"}),
    (Refusal.MULTI_FRAME, {"NumberOfFrames": 2}),
    (Refusal.NO_RESCALE, {"RescaleSlope": None}),
    (Refusal.NO_RESCALE, {"RescaleIntercept": ""}),
    (Refusal.NO_RESCALE, {"RescaleSlope": 0}),
    (Refusal.NO_RESCALE, {"RescaleSlope": "1_0"}),
    (Refusal.NO_RESCALE, {"RescaleSlope": 1e30}),
    (Refusal.NO_RESCALE, {"RescaleType": "OD"}),  # optical density
    (Refusal.NO_RESCALE, {"ModalityLUTSequence": [Dataset()]}),
    (Refusal.NO_UID, {"SOPInstanceUID": None}),
    (Refusal.NO_UID, {"SeriesInstanceUID": ""}),
    (Refusal.PIXEL_FORMAT, {"BitsAllocated": 64, "BitsStored": 64, "HighBit": 63}),
    (Refusal.PIXEL_FORMAT, {"BitsStored": 12, "HighBit": 15}),
    (Refusal.PIXEL_FORMAT, {"PixelRepresentation": 2}),
    (Refusal.PIXEL_FORMAT, {"Rows": 0}),
    (Refusal.TOO_LARGE, {"Rows": 5000}),
    (Refusal.CORRUPT, {"Rows": None}),
    (Refusal.CORRUPT, {"Rows": ROWS // 2}),  # pixels for two frames
    (Refusal.TRUNCATED, {"PixelData": STORED.astype("<i2").tobytes()[:-2]}),
]


@pytest.mark.parametrize(("code", "changes"), REFUSED)
@pytest.mark.parametrize("read", [read_header, read_hu])
def test_refused_by_its_header(write, read, code, changes):
    assert refusal(read, write(make_slice(**changes))).code == code


@pytest.mark.parametrize(
    ("code", "syntax"),
    [
        (Refusal.UNSUPPORTED_SYNTAX, b"1.2.840.10008.1.2.9"),  # none that there is
        (Refusal.CORRUPT, uid.RLELossless.encode()),  # with native pixels
        (Refusal.CORRUPT, uid.ExplicitVRBigEndian.encode()),  # with little-endian elements
    ],
)
@pytest.mark.parametrize("read", [read_header, read_hu])
def test_refused_by_its_transfer_syntax(write, read, code, syntax):
    data = to_bytes(make_slice()).replace(uid.ExplicitVRLittleEndian.encode(), syntax, 1)
    assert refusal(read, write(data)).code == code


@pytest.mark.parametrize(
    ("code", "content"),
    [
        (Refusal.EMPTY, b""),
        (Refusal.NOT_DICOM, b"\xff\xd8\xff\xe0 JPEG"),
        (Refusal.NOT_DICOM, bytes(200)),
        (Refusal.NOT_DICOM, bytes(128) + b"DICM"),
        (Refusal.TRUNCATED, to_bytes(make_slice())[:-1]),
        (Refusal.TRUNCATED, to_bytes(make_slice())[:401]),
        (Refusal.TRUNCATED, to_bytes(make_slice(syntax=uid.DeflatedExplicitVRLittleEndian))[:-100]),
    ],
)
@pytest.mark.parametrize("read", [read_header, read_hu])
def test_refused_by_its_bytes(write, read, code, content):
    assert refusal(read, write(content)).code == code


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_a_compressed_frame_that_is_cut_is_refused(write, syntax):
    ds = compressed(syntax)
    whole = to_bytes(ds)
    assert refusal(read_hu, write(whole[:-60])).code == Refusal.TRUNCATED
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    assert refusal(read_hu, write(ds)).code in (Refusal.TRUNCATED, Refusal.CORRUPT)


@pytest.mark.parametrize("syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_a_compressed_frame_of_another_shape_is_refused(write, syntax):
    ds = compressed(syntax)
    ds.Rows, ds.Columns = ROWS // 2, COLUMNS * 2
    assert refusal(read_hu, write(ds)).code == Refusal.CORRUPT


def test_a_codec_that_is_not_installed_is_named(write, monkeypatch):
    path = write(compressed(uid.JPEGLSLossless))
    missing = SimpleNamespace(is_available=False, is_encapsulated=True)
    monkeypatch.setitem(codecs.DECODERS, uid.JPEGLSLossless, missing)
    error = refusal(read_header, path)
    assert error.code == Refusal.UNSUPPORTED_SYNTAX
    assert "JPEG-LS" in str(error)
    assert "pip install 'ich[codecs]'" in str(error)


@pytest.mark.parametrize("read", [read_header, read_hu])
def test_what_is_not_a_file_is_refused_at_once(tmp_path, read):
    assert refusal(read, tmp_path).code == Refusal.NOT_FILE
    assert refusal(read, tmp_path / "none.dcm").code == Refusal.UNREADABLE
    fifo = tmp_path / "fifo.dcm"
    os.mkfifo(fifo)
    assert refusal(read, fifo).code == Refusal.NOT_FILE


def test_what_is_too_large_is_refused_unread(tmp_path, write):
    huge = tmp_path / "huge.dcm"
    with huge.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # sparse
    assert refusal(read_hu, huge).code == Refusal.TOO_LARGE

    whole = to_bytes(make_slice(syntax=uid.DeflatedExplicitVRLittleEndian))
    meta = whole[: whole.index(b"1.2.840.10008.1.2.1.99") + 22]
    deflater = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    bomb = b"".join([*(deflater.compress(bytes(1 << 20)) for _ in range(80)), deflater.flush()])
    error = refusal(read_header, write(meta + bomb))
    assert error.code == Refusal.TOO_LARGE
    assert "inflates" in error.detail


def test_a_refusal_survives_pickling(write):
    error = refusal(read_header, write(make_slice(Modality="MR")))
    twin = pickle.loads(pickle.dumps(error))
    assert (twin.code, twin.path, twin.detail) == (error.code, error.path, error.detail)
    assert twin.code == "not_ct"


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
    ],
    ids=lambda syntax: syntax.keyword,
)
def test_only_read_errors_leave_damaged_files(write, syntax):
    rng = random.Random(0)
    ds = compressed(syntax) if syntax.is_encapsulated else make_slice(syntax=syntax)
    whole = to_bytes(ds)
    refused = set()
    for _ in range(60):
        damaged = bytearray(whole[: rng.choice([len(whole), rng.randrange(len(whole))])])
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            hu = read_hu(write(bytes(damaged)))
        except ReadError as error:
            refused.add(error.code)
        else:
            assert hu.dtype == np.int16
    assert {Refusal.TRUNCATED} < refused <= set(Refusal)


def nest(depth):
    """An element with so many sequences of undefined length in each other (explicit VR little endian)."""
    down, item = b"\x08\0\x12\x11SQ\0\0\xff\xff\xff\xff", b"\xfe\xff\0\xe0\xff\xff\xff\xff"
    up = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    return (down + item) * depth + up * depth


@pytest.mark.parametrize(("depth", "code"), [(30, None), (5000, Refusal.CORRUPT), (100_000, Refusal.CORRUPT)])
def test_nested_sequences_are_bounded(write, depth, code):
    whole = to_bytes(make_slice())
    place = whole.index(b"\x10\0\x20\0LO")  # PatientID
    path = write(whole[:place] + nest(depth) + whole[place:])
    for read in (read_header, read_hu):
        if code is None:
            read(path)
        else:
            error = refusal(read, path)
            assert error.code == code
            assert "deep" in error.detail


def test_a_frame_that_no_codec_makes_is_refused_undecoded(write):
    ds = compressed(uid.RLELossless)
    frame = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([frame + bytes(1 << 20)])
    error = refusal(read_hu, write(ds))
    assert error.code == Refusal.CORRUPT
    assert "at most" in error.detail
    ds.Rows, ds.Columns = 40_000, 20_000
    assert refusal(read_hu, write(ds)).code == Refusal.TOO_LARGE


@pytest.mark.parametrize(
    ("sop_class", "code"),
    [
        (uid.CTImageStorage, None),
        (uid.SecondaryCaptureImageStorage, Refusal.NOT_CT),
        (uid.EnhancedCTImageStorage, None),  # without functional groups it is as any other slice
        ("1.2.3.4", Refusal.NOT_CT),
    ],
)
def test_a_sop_class_other_than_ct_is_refused(write, sop_class, code):
    path = write(make_slice(SOPClassUID=sop_class))
    if code is None:
        assert read_hu(path).shape == (ROWS, COLUMNS)
    else:
        error = refusal(read_header, path)
        assert error.code == code
        assert str(uid.UID(sop_class).name) in error.detail


def find_images_of_pydicom():
    """The CT slices among the files that pydicom ships, by pydicom's own reading, and all files."""
    root = Path(get_testdata_file("CT_small.dcm")).parent.parent
    files = sorted(path for path in root.rglob("*") if path.is_file())
    slices = set()
    for path in files:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ds = pydicom.dcmread(path)
                gray = ds.SOPClassUID == uid.CTImageStorage and ds.SamplesPerPixel == 1
            except Exception:
                continue
        if gray and "PixelData" in ds and ds.get("NumberOfFrames", 1) == 1:
            slices.add(path)
    return files, slices


def test_of_the_files_that_pydicom_ships_only_ct_slices_are_read():
    files, slices = find_images_of_pydicom()
    assert len(files) > 50
    assert len(slices) > 5
    read, refused = {}, []
    for path in files:
        try:
            read[path] = read_header(path), read_hu(path)
        except ReadError as error:
            refused.append(error)
    assert read.keys() == slices
    assert all(hu.shape == (header.Rows, header.Columns) for header, hu in read.values())
    assert {error.code for error in refused} <= set(Refusal)
