"""What is written of a study as DICOM: the report and the key images, and why they are refused."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import subprocess
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pydicom
import pytest
from drawings import draw_once
from highdicom.sr import MeasurementsAndQualitativeEvaluations, srread
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sr.codedict import codes
from pydicom.valuerep import validate_value
from results import GAP, make_refused, make_result

from ich.dicom import read_header, read_hu
from ich.outputs.captures import draw_key_image, write_key_images
from ich.outputs.concepts import FINDINGS, PROBABILITY, PROCEDURE, SITES, STUDY_UID, THRESHOLD
from ich.outputs.refusal import OutputRefused
from ich.outputs.sr import write_sr
from ich.schema import DISCLAIMER, LABELS, SUBTYPES
from ich.schema.codes import OutputRefusal, Reason
from ich.schema.results import Remark, StudyResult

CODES = ("82999001", "274100004", "1386000", "21454007", "35486000", "1386000")
STUDY = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "PatientAge", "StudyInstanceUID")
STUDY += ("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "SpecificCharacterSet")


class Series(NamedTuple):
    index: pd.DataFrame
    files: Mapping[str, Path]


def read_series(folder: Path) -> Series:
    """The slices of a folder that holds one series, in order of position."""
    paths = sorted(folder.glob("*.dcm"))
    index = pd.DataFrame([read_header(path)._asdict() | {"path": path} for path in paths])
    index = index.sort_values("position", ignore_index=True)
    return Series(index, dict(zip(index.SOPInstanceUID, index.path, strict=True)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """A conformant series, to be left as it is."""
    root = draw_once(tmp_path_factory, patients=1, seed=5, conformant=True)
    return read_series(root / "stage_2_train")


@pytest.fixture
def edit(whole: Series, tmp_path: Path) -> Callable[..., Series]:
    """Copies the series with attributes of each slice, or of the third alone, changed; None removes one."""

    def copy(only_third: bool = False, **values: object) -> Series:
        folder = tmp_path / "edited"
        folder.mkdir()
        with pydicom.config.disable_value_validation(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unknown encoding")
            for n, path in enumerate(whole.files.values()):
                ds = pydicom.dcmread(path)
                for keyword, value in values.items() if n == 2 or not only_third else ():
                    if value is None:
                        delattr(ds, keyword)
                    else:
                        setattr(ds, keyword, value)
                ds.save_as(folder / f"{n}.dcm")
        return read_series(folder)

    return copy


RESULTS = {
    "positive": {},
    "all": {"present": SUBTYPES},
    "negative": {"present": ()},
    "indeterminate": {"present": (), "reasons": [GAP, Remark(Reason.CONFLICTING_COPIES, "2 files, ≥ 5 °")]},
    "positive despite a gap": {"reasons": [GAP]},
    "without a decision": {"decided": False, "known": False},
}


def write_report(result: StudyResult, series: Series, folder: Path) -> Path:
    write_sr(result, series.files, folder / "report.dcm")
    return folder / "report.dcm"


def find_codes(group: MeasurementsAndQualitativeEvaluations) -> dict[str, list[str]]:
    """The coded statements of a group: the meanings of the values by those of the names."""
    found: dict[str, list[str]] = {}
    for evaluation in group.get_qualitative_evaluations():
        found.setdefault(evaluation.name.meaning, []).append(evaluation.value.meaning)
    return found


def find_numbers(group: MeasurementsAndQualitativeEvaluations) -> dict[str, float]:
    return {measurement.name.meaning: float(measurement.value) for measurement in group.get_measurements()}


def find_images(group: MeasurementsAndQualitativeEvaluations) -> list[str]:
    return [
        item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID
        for item in group[0].ContentSequence
        if item.ValueType == "IMAGE"
    ]


def test_a_report_says_what_was_found(whole: Series, tmp_path: Path) -> None:
    result = make_result(whole.index)
    report = srread(write_report(result, whole, tmp_path))
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    groups = report.content.get_image_measurement_groups()
    said = {group.tracking_identifier: group for group in groups}
    assert list(said) == ["study", "any", *SUBTYPES]
    study = said.pop("study")
    assert [said[label].finding_type.value for label in LABELS] == list(CODES)
    assert {group.finding_type.scheme_designator for group in said.values()} == {"SCT"}
    assert {label: find_numbers(group)["Probability"] for label, group in said.items()} == {
        label: pytest.approx(given.prob) for label, given in result.labels.items()
    }
    assert find_numbers(said["any"]) == {"Probability": 0.91, "Threshold Value": 0.4}
    assert find_numbers(study) == {
        "Distance from the training data": 1.05,
        "Limit of the distance from the training data": 1.6,
    }
    assert find_codes(said["any"]) == {
        "Algorithm Family": ["Artificial Intelligence"],
        "Presence": ["Present"],
    }
    assert find_codes(study) == {
        "Algorithm Family": ["Artificial Intelligence"],
        "Outcome of the study": ["Positive"],
    }
    keys = [result.slices[n].SOPInstanceUID for n in result.key_slices]
    assert find_images(said["any"]) == find_images(said["subdural"]) == keys
    assert find_images(said["epidural"]) == []
    texts = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
    assert DISCLAIMER in texts
    assert "Outcome: POSITIVE" in texts
    algorithm = [item.TextValue for item in said["any"][0].ContentSequence if item.ValueType == "TEXT"]
    algorithm = " ".join(algorithm)
    assert all(
        text in algorithm for text in (*result.algorithm.weights, "flip", "noisy_or", "sensitivity 0.95")
    )


def test_a_report_belongs_to_the_study_and_to_a_series_of_its_own(whole: Series, tmp_path: Path) -> None:
    report = pydicom.dcmread(write_report(make_result(whole.index), whole, tmp_path))
    source = pydicom.dcmread(next(iter(whole.files.values())))
    assert [report[keyword].value for keyword in STUDY] == [source[keyword].value for keyword in STUDY]
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = study.ReferencedSeriesSequence
    assert study.StudyInstanceUID == source.StudyInstanceUID
    assert series.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence} == set(whole.files)


@pytest.mark.parametrize(
    ("given", "any_is", "subdural_is", "epidural_is"),
    [
        ("positive", "Present", "Present", "Absent"),
        ("negative", "Absent", None, None),
        ("indeterminate", "Indeterminate", None, None),
        ("positive despite a gap", "Present", "Present", None),
        ("without a decision", "Indeterminate", None, None),
    ],
)
def test_nothing_is_called_absent_with_a_reason_against_it(
    whole: Series, tmp_path: Path, given: str, any_is: str, subdural_is: str | None, epidural_is: str | None
) -> None:
    result = make_result(whole.index, **RESULTS[given])
    report = srread(write_report(result, whole, tmp_path))
    groups = {group.tracking_identifier: group for group in report.content.get_image_measurement_groups()}
    presence = [find_codes(groups[label]).get("Presence") for label in ("any", "subdural", "epidural")]
    assert presence == [each and [each] for each in (any_is, subdural_is, epidural_is)]
    said = find_codes(groups["study"])
    assert said["Outcome of the study"] == [str(result.outcome).title()]
    reasons = [reason.code.replace("_", " ") for reason in result.reasons]
    assert said.get("Reason against a negative result", []) == reasons
    texts = " ".join(item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT")
    assert all(f"{Reason(reason.code).sentence}: {reason.detail[:5]}" in texts for reason in result.reasons)
    if given == "indeterminate":
        assert f"{Reason.CONFLICTING_COPIES.sentence}: 2 files, >= 5 deg" in texts
    assert find_numbers(groups["any"]).keys() >= {"Probability"}
    if given != "positive despite a gap":
        assert find_images(groups["any"]) == [result.slices[n].SOPInstanceUID for n in result.key_slices]


def rename_labels(result: StudyResult, names: Mapping[str, str], decides: str | None) -> StudyResult:
    """The result with only these labels, by their new names, and with another label that decides."""
    labels = {name: result.labels[label] for label, name in names.items()}
    return dataclasses.replace(result, labels=labels, decides=decides)


@pytest.mark.parametrize("decides", ["bleed", None])
def test_the_outcome_needs_no_code_of_the_label_that_decides(
    whole: Series, tmp_path: Path, decides: str | None
) -> None:
    result = make_result(whole.index, reasons=[GAP])
    result = rename_labels(result, {"any": "bleed", "subdural": "subdural"}, decides)
    report = srread(write_report(result, whole, tmp_path))
    study, subdural = report.content.get_image_measurement_groups()
    assert (study.tracking_identifier, subdural.tracking_identifier) == ("study", "subdural")
    assert find_codes(study)["Outcome of the study"] == ["Positive"]
    assert find_codes(study)["Reason against a negative result"] == ["gap"]
    assert find_numbers(study)["Distance from the training data"] == 1.05
    texts = [item.TextValue for item in study[0].ContentSequence if item.ValueType == "TEXT"]
    points = [text for text in texts if text.startswith("operating point")]
    assert points == (["operating point of bleed: sensitivity 0.95"] if decides else [])


def test_any_is_any_hemorrhage_only_among_the_rsna_s_labels(whole: Series, tmp_path: Path) -> None:
    result = rename_labels(make_result(whole.index), {"any": "any"}, "any")
    with pytest.raises(OutputRefused, match=r"^no_code: there is no code for any$"):
        write_report(result, whole, tmp_path)
    result = rename_labels(make_result(whole.index), {"any": "any", "subdural": "subdural"}, "any")
    report = srread(write_report(result, whole, tmp_path))
    groups = report.content.get_image_measurement_groups()
    assert [group.tracking_identifier for group in groups] == ["study", "subdural"]


def test_a_key_image_is_the_slice_below_a_warning(whole: Series, tmp_path: Path) -> None:
    result = make_result(whole.index)
    paths = write_key_images(result, whole.files, tmp_path)
    assert [path.name for path in paths] == ["key_image_1.dcm", "key_image_2.dcm", "key_image_3.dcm"]
    for path, n in zip(paths, result.key_slices, strict=True):
        image = pydicom.dcmread(path)
        source_path = whole.files[result.slices[n].SOPInstanceUID]
        source = pydicom.dcmread(source_path)
        assert [image[keyword].value for keyword in STUDY] == [source[keyword].value for keyword in STUDY]
        (reference,) = image.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert image.SOPClassUID.name == "Secondary Capture Image Storage"
        assert list(image.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        for text in (image.SeriesDescription, image.DerivationDescription, image.ImageComments):
            assert "NOT FOR DIAGNOSIS" in text
        assert DISCLAIMER in image.ImageComments
        assert image.BurnedInAnnotation == "NO"
        assert list(image.PatientOrientation) == ["L", "P"]
        assert np.allclose(np.array(image.PixelSpacing) * 8, source.PixelSpacing)
        strip, body = image.pixel_array[:-512], image.pixel_array[-512:]
        assert body.shape == (512, 512)
        assert len(strip) > 40
        assert (strip > 200).sum() > 1000  # letters
        assert strip[:, -4:].max() == 0  # none is cut off
        expected = np.clip(read_hu(source_path) / 80 * 255, 0, 255)  # the brain window is 0 to 80 HU
        assert np.abs(body.reshape(64, 8, 64, 8)[:, 3:5, :, 3:5].mean((1, 3)) - expected).max() < 40
        assert np.corrcoef(body.reshape(64, 8, 64, 8).mean((1, 3)).ravel(), expected.ravel())[0, 1] > 0.98
    assert len({pydicom.dcmread(path).SeriesInstanceUID for path in paths}) == 1


def test_a_large_slice_keeps_its_pixels() -> None:
    rng = np.random.default_rng(0)
    hu = rng.integers(-1000, 1000, (600, 512), dtype=np.int16)
    pixels, times = draw_key_image(hu, ["NOT FOR DIAGNOSIS", "a long line " * 30])
    assert times == 1
    assert pixels.shape[1] == 512
    assert pixels[:-600, -4:].max() == 0  # long as it is, the line fits
    assert np.abs(pixels[-600:] - np.clip(hu / 80 * 255, 0, 255)).max() <= 0.5


def test_a_key_image_outlines_the_evidence_and_hides_little(whole: Series, tmp_path: Path) -> None:
    result = make_result(whole.index)
    n = result.key_slices[0]
    heat = np.zeros((64, 64), np.float32)
    heat[20:40, 20:40] = 0.3
    heat[25:35, 25:35] = 1.0
    plain = pydicom.dcmread(write_key_images(result, whole.files, tmp_path)[0])
    path, *others = write_key_images(result, whole.files, tmp_path, {n: heat})
    drawn = pydicom.dcmread(path)
    assert "50 % of the peak of a heat map" in drawn.DerivationDescription
    assert "heat map" not in plain.DerivationDescription + pydicom.dcmread(others[0]).DerivationDescription
    changed = np.argwhere(drawn.pixel_array[-512:] != plain.pixel_array[-512:])
    assert changed.min() > 8 * 24  # at half of the peak, not where the map is lower
    assert changed.max() < 8 * 36
    inside = drawn.pixel_array[-512:][8 * 26 : 8 * 34, 8 * 26 : 8 * 34]
    np.testing.assert_array_equal(inside, plain.pixel_array[-512:][8 * 26 : 8 * 34, 8 * 26 : 8 * 34])
    assert len(changed) < 0.03 * 512**2


def test_only_a_positive_study_has_key_images(whole: Series, tmp_path: Path) -> None:
    assert write_key_images(make_result(whole.index, present=()), whole.files, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"BurnedInAnnotation": "YES"}, "YES"),
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, None),
        ({"ImageType": None}, None),
    ],
)
def test_burned_in_annotation_follows_the_source(
    edit: Callable[..., Series], tmp_path: Path, values: dict[str, object], expected: str | None
) -> None:
    series = edit(**values)
    path, *_ = write_key_images(make_result(series.index), series.files, tmp_path)
    assert pydicom.dcmread(path).get("BurnedInAnnotation") == expected


def test_what_was_once_lossy_stays_so(edit: Callable[..., Series], tmp_path: Path) -> None:
    series = edit(LossyImageCompression="01", LossyImageCompressionRatio="8")
    path, *_ = write_key_images(make_result(series.index), series.files, tmp_path)
    image = pydicom.dcmread(path)
    assert (image.LossyImageCompression, image.LossyImageCompressionRatio) == ("01", 8)


def list_uids(ds: Dataset) -> list[str]:
    """The UIDs that an object has of its own, those of its content included."""
    own = [ds.SOPInstanceUID, ds.SeriesInstanceUID]
    return own + [str(e.value) for e in ds.iterall() if e.keyword == "UID"]


def test_a_second_run_overwrites_and_another_result_does_not(whole: Series, tmp_path: Path) -> None:
    def write(result: StudyResult, name: str) -> list[str]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        paths = [write_report(result, whole, folder), *write_key_images(result, whole.files, folder)]
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)
        assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in paths)
        return [uid for path in paths for uid in list_uids(pydicom.dcmread(path))]

    result = make_result(whole.index)
    first = write(result, "first")
    assert len(first) == len(set(first)) + 2  # three images are of one series
    assert all(uid.startswith("2.25.") and pydicom.uid.UID(uid).is_valid for uid in first)
    assert write(dataclasses.replace(result, number=7), "first") == first
    others = [
        dataclasses.replace(result, algorithm=dataclasses.replace(result.algorithm, tta=())),
        dataclasses.replace(result, reasons=(GAP,)),
        make_result(whole.index[1:]),
    ]
    device = first[2]  # the same model has read it
    for n, other in enumerate(others):
        assert set(write(other, f"other{n}")) & set(first) <= {device}


REFUSALS = {
    "StudyInstanceUID": ({"StudyInstanceUID": "ID_1"}, OutputRefusal.INVALID_UID),
    "SeriesInstanceUID": ({"SeriesInstanceUID": "1.2." + "3" * 62}, OutputRefusal.INVALID_UID),
    "SOPClassUID": ({"SOPClassUID": None}, OutputRefusal.MISSING_ATTRIBUTE),
    "PatientName": ({"PatientName": None}, OutputRefusal.MISSING_ATTRIBUTE),
    "StudyDate": ({"StudyDate": None}, OutputRefusal.MISSING_ATTRIBUTE),
    "StudyTime": ({"StudyTime": "SECRET"}, OutputRefusal.INVALID_VALUE),
    "PatientSex": ({"PatientSex": "SECRET"}, OutputRefusal.INVALID_VALUE),
    "PatientBirthDate": ({"PatientBirthDate": "SECRET"}, OutputRefusal.INVALID_VALUE),
    "SpecificCharacterSet": ({"SpecificCharacterSet": "ISO_IR 999"}, OutputRefusal.INVALID_VALUE),
    "PatientID": ({"PatientID": "SECRET", "only_third": True}, OutputRefusal.CONFLICTING_SOURCES),
}


@pytest.mark.parametrize("keyword", REFUSALS)
def test_a_source_that_lacks_something_is_refused_by_name(
    edit: Callable[..., Series], tmp_path: Path, keyword: str
) -> None:
    values, code = REFUSALS[keyword]
    series = edit(**values)
    check_refused(make_result(series.index), series, tmp_path, code, keyword)


def check_refused(
    result: StudyResult, series: Series, tmp_path: Path, code: OutputRefusal, words: str
) -> None:
    """Both objects are refused, in words that tell nothing of the source, and nothing is written."""
    out = tmp_path / "out"
    out.mkdir()
    for write in (
        lambda: write_report(result, series, out),
        lambda: write_key_images(result, series.files, out),
    ):
        with pytest.raises(OutputRefused, match=f"^{code}: .*{words}") as refused:
            write()
        assert refused.value.code == code
        secrets = ("SECRET", "ISO_IR 999", "PHANTOM", str(tmp_path), *series.files, *series.index.PatientID)
        assert not any(text in refused.value.kept for text in secrets)
    assert list(out.iterdir()) == []


def test_slices_like_the_rsna_s_are_refused(phantom: Path, tmp_path: Path) -> None:
    series = read_series(phantom / "stage_2_train")
    index = series.index[series.index.SeriesInstanceUID == series.index.SeriesInstanceUID[0]]
    check_refused(make_result(index), series, tmp_path, OutputRefusal.INVALID_UID, "StudyInstanceUID")


def test_a_study_without_a_result_is_refused(whole: Series, tmp_path: Path) -> None:
    check_refused(make_refused(), whole, tmp_path, OutputRefusal.NO_RESULT, "could not be read")


def test_nothing_is_written_of_mixed_patients(whole: Series, tmp_path: Path) -> None:
    result = make_result(whole.index, reasons=[Remark(Reason.MIXED_PATIENTS, "2 patients")])
    check_refused(result, whole, tmp_path, OutputRefusal.CONFLICTING_SOURCES, "several patients")


def test_a_result_of_another_study_is_refused(whole: Series, tmp_path: Path) -> None:
    result = dataclasses.replace(make_result(whole.index), StudyInstanceUID="1.2.3")
    check_refused(result, whole, tmp_path, OutputRefusal.CONFLICTING_SOURCES, "StudyInstanceUID")


def test_a_file_that_is_gone_is_refused(whole: Series, tmp_path: Path) -> None:
    result = make_result(whole.index)
    gone = Series(whole.index, dict(whole.files) | {result.slices[3].SOPInstanceUID: tmp_path / "gone.dcm"})
    check_refused(result, gone, tmp_path, OutputRefusal.UNREADABLE_SOURCE, "FileNotFoundError")


def test_a_key_slice_without_pixels_is_refused(edit: Callable[..., Series], tmp_path: Path) -> None:
    series = edit()
    result = make_result(series.index)
    path = series.files[result.slices[result.key_slices[1]].SOPInstanceUID]
    path.write_bytes(path.read_bytes()[:-2000])
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputRefused, match=r"^unreadable_source: .*truncated"):
        write_key_images(result, series.files, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Änne"),
        ("ISO_IR 192", "Müller^Änne=山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("ISO_IR 100", "ANONYMOUS"),
        ("ISO_IR 100", ""),
    ],
)
def test_names_are_taken_over_as_they_are(
    edit: Callable[..., Series], tmp_path: Path, charset: object, name: str
) -> None:
    series = edit(SpecificCharacterSet=charset, PatientName=name)
    result = make_result(series.index, reasons=[Remark(Reason.GAP, "≥ 5 mm, ± 1 °")])
    for path in (write_report(result, series, tmp_path), *write_key_images(result, series.files, tmp_path)):
        ds = pydicom.dcmread(path)
        assert str(ds.PatientName) == name
        assert DISCLAIMER.encode() in path.read_bytes()


WRONG = {
    "AccessionNumber": "A" * 17,
    "StudyID": "S" * 17,
    "ReferringPhysicianName": "R" * 65,
    "StudyDate": "2020.01.15",
    "StudyTime": "12:30:15.5",
    "PatientBirthDate": "1950.02.03",
    "PatientAge": "70",
    "PatientSex": "F",
    "StudyDescription": "D" * 65,
    "PatientWeight": "70.12345678901234567",
    "EthnicGroup": "E" * 17,
}
MENDED = {"StudyDate": "20200115", "StudyTime": "123015.5", "PatientBirthDate": "19500203", "PatientSex": "F"}


def test_values_that_break_their_kind_are_mended_by_rule_and_never_copied(
    edit: Callable[..., Series], tmp_path: Path
) -> None:
    series = edit(**WRONG)
    result = make_result(series.index)
    for path in (write_report(result, series, tmp_path), *write_key_images(result, series.files, tmp_path)):
        ds = pydicom.dcmread(path)
        assert {keyword: str(ds.get(keyword, "")) for keyword in WRONG} == dict.fromkeys(WRONG, "") | MENDED
        for element in ds.iterall():
            if element.VR in ("AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UI"):
                values = [element.value] if isinstance(element.value, str) else element.value or []
                for value in values if isinstance(values, list | MultiValue) else [values]:
                    validate_value(element.VR, str(value), pydicom.config.RAISE)


@pytest.mark.parametrize("keyword", ["PatientID", "PatientName"])
def test_whose_an_object_is_is_never_mended(
    edit: Callable[..., Series], tmp_path: Path, keyword: str
) -> None:
    series = edit(**{keyword: "SECRET" * 11})
    code = OutputRefusal.INVALID_VALUE
    check_refused(make_result(series.index), series, tmp_path, code, f"{keyword} of a slice breaks the rules")


def test_codes_are_those_of_dicom_s_own_dictionaries() -> None:
    assert PROCEDURE[:2] == tuple(codes.LN.HeadCT)[:2]
    assert SITES["intraventricular"][:2] == tuple(codes.SCT.BrainVentricle)[:2]
    assert (*PROBABILITY,) == tuple(codes.DCM.Probability)[:3]
    assert (*THRESHOLD,) == tuple(codes.DCM.ThresholdValue)[:3]
    assert (*STUDY_UID,) == tuple(codes.DCM.StudyInstanceUID)[:3]
    for label in ("any", "intraventricular"):
        assert FINDINGS[label].value == codes.SCT.IntracranialHemorrhage.value


@pytest.mark.parametrize("given", ["positive", "indeterminate"])
def test_what_is_written_passes_dicom_validator(whole: Series, tmp_path: Path, given: str) -> None:
    tool = pytest.importorskip("dicom_validator.validate_iods")
    standard = Path(os.environ.get("DICOM_STANDARD", Path.home() / "dicom-validator"))
    if not list(standard.glob("*/docbook/part03.xml")):
        pytest.skip(f"the standard's XML is not in {standard}, to which validate_iods fetches it")
    result = make_result(whole.index, **RESULTS[given])
    paths = [write_report(result, whole, tmp_path), *write_key_images(result, whole.files, tmp_path)]
    assert tool.main(["-src", str(standard), "-e", "local", *map(str, paths)]) == 0


def run_tool(*command: str) -> str:
    """What a tool says; skips where it is not installed."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (Debian: dicom3tools, dcmtk)")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("given", RESULTS)
@pytest.mark.parametrize("tool", ["dciodvfy", "dcmdump", "dsrdump"])
def test_what_is_written_passes_the_validators(whole: Series, tmp_path: Path, given: str, tool: str) -> None:
    result = make_result(whole.index, **RESULTS[given])
    report = write_report(result, whole, tmp_path)
    heats = dict.fromkeys(result.key_slices, np.eye(64, dtype=np.float32))
    images = [] if tool == "dsrdump" else write_key_images(result, whole.files, tmp_path, heats)
    for path in (report, *images):
        # What dciodvfy warns of is that it does not know the codes of this library.
        said = run_tool(*([tool, "-new"] if tool == "dciodvfy" else [tool, "-q"]), str(path))
        assert not [line for line in said.splitlines() if line.startswith(("Error", "E:", "W:", "F:"))]
        if tool == "dsrdump":
            assert "UNVERIFIED" in said
            assert "Intracranial hemorrhage" in said
