from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ich.dicom.attributes import Attributes, read_attributes
from ich.index import build_index
from ich.schema.codes import Note, Refusal, SetAside
from ich.studies.series import Ranking, rank_series
from ich.studies.series.geometry import check_geometry
from ich.studies.series.keywords import is_sharp, tell_contrast

AXIAL, CORONAL = "1\\0\\0\\0\\1\\0", "1\\0\\0\\0\\0\\-1"
CT = "1.2.840.10008.5.1.4.1.1.2"
SECONDARY = "1.2.840.10008.5.1.4.1.1.7"


def make_series(uid: str = "a", count: int = 30, step: float = 5.0, **texts: str) -> pd.DataFrame:
    """The files of a series; a ``code`` makes them refused."""
    defaults = {
        "SOPClassUID": CT,
        "Modality": "CT",
        "StudyInstanceUID": "study",
        "SeriesInstanceUID": uid,
        "ImageOrientationPatient": AXIAL,
    }
    code = texts.pop("code", "")
    rows = [Attributes(**defaults | texts, SOPInstanceUID=f"{uid}.{number}") for number in range(count)]
    position = np.nan if code else step * np.arange(count)
    unknown = {"orientation": 0, "AcquisitionTime": "", "ContentTime": "", "InstanceNumber": np.nan}
    return pd.DataFrame(rows).assign(code=code, position=position, **unknown)


def rank(*series: pd.DataFrame) -> Ranking:
    """Ranks a study; the order of its files must not matter."""
    files = pd.concat(series, ignore_index=True)
    ranking = rank_series(files)
    assert ranking == rank_series(files.sample(frac=1, random_state=1))
    known = {*ranking.candidates, *ranking.set_aside}
    assert known == set(files["SeriesInstanceUID"]) - {""}
    assert len(known) == len(ranking.candidates) + len(ranking.set_aside)
    return ranking


def code_of(**texts: str) -> str:
    """What becomes of a series that is the only one of its study."""
    ranking = rank(make_series(**texts))
    return "read" if ranking.candidates else ranking.set_aside["a"].code


@pytest.mark.parametrize(
    "texts",
    [
        {},  # as the RSNA set has it
        {"SOPClassUID": "", "ImageOrientationPatient": "1\\0\\0\\0\\0.9\\-0.43"},  # tilted by 25 degrees
        {
            "SOPClassUID": "",
            "ImageOrientationPatient": "-1\\0\\0\\0\\-0.99\\-0.14",
        },  # prone, tilted by -8 degrees
        {
            "ImageOrientationPatient": "0.906\\0.423\\0\\-0.423\\0.906\\0"
        },  # a head that lay turned, set straight
        {"ImageOrientationPatient": ""},
        {"SeriesDescription": "HEAD 5.0 H30s", "BodyPartExamined": "HEAD"},
        {"SeriesDescription": "5/5mm Plain"},
        {"SeriesDescription": "Sch\u00e4del nativ 4.0 J40s", "ContrastBolusAgent": "Ultravist"},
        {
            "SeriesDescription": "Cr\u00e2ne sans IV",
            "StudyDescription": "Scanner c\u00e9r\u00e9bral avec injection",
        },
        {"SeriesDescription": "Cabeza sin contraste", "BodyPartExamined": "NECK"},
        {"SeriesDescription": "Cr\u00e2nio sem contraste"},
        {"SeriesDescription": "Capo senza mdc"},
        {"SeriesDescription": "HEAD W/O", "ImageType": "ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SEQ"},
        {"SeriesDescription": "BRAIN BONE", "ConvolutionKernel": "BONEPLUS"},  # nothing better is there
        {"SeriesDescription": "Head MPR ax", "ImageType": "DERIVED\\PRIMARY\\MPR"},
        {"StudyDescription": "CT HEAD AND C-SPINE", "SeriesDescription": "HEAD"},
        {"StudyDescription": "CT HEAD AND C-SPINE"},
        {"BodyPartExamined": "HEADNECK"},  # as scanners write for heads, too
        {"ContrastBolusAgent": "NONE"},
        {"SeriesDescription": "Orbitomeatal head"},
    ],
)
def test_a_head_without_contrast_is_read(texts: dict[str, str]) -> None:
    assert code_of(**texts) == "read"


@pytest.mark.parametrize(
    ("texts", "code"),
    [
        ({"Modality": "MR", "code": Refusal.NOT_CT}, SetAside.NOT_CT),
        ({"Modality": "SR", "SOPClassUID": f"{SECONDARY[:-1]}88.67", "code": "not_ct"}, SetAside.DOSE_REPORT),
        (
            {"SOPClassUID": SECONDARY, "SeriesDescription": "Dose Report", "code": "not_ct"},
            SetAside.DOSE_REPORT,
        ),
        ({"SOPClassUID": SECONDARY, "code": Refusal.NOT_CT}, SetAside.SECONDARY_CAPTURE),
        ({"SOPClassUID": f"{CT}.1", "NumberOfFrames": "30", "code": "multi_frame"}, SetAside.MULTI_FRAME),
        ({"code": Refusal.TRUNCATED}, SetAside.ALL_REFUSED),
        ({"Modality": "", "code": Refusal.CORRUPT}, SetAside.ALL_REFUSED),
        ({"ImageType": "ORIGINAL\\PRIMARY\\LOCALIZER"}, SetAside.LOCALIZER),
        ({"SeriesDescription": "Topogram 0.6 T20f"}, SetAside.LOCALIZER),
        ({"ImageType": "DERIVED\\SECONDARY\\AXIAL\\CT_SOM5 MIP"}, SetAside.DERIVED),
        ({"SeriesDescription": "Head 3D VRT"}, SetAside.DERIVED),
        ({"ImageOrientationPatient": CORONAL}, SetAside.NOT_AXIAL),
        ({"ImageOrientationPatient": "", "SeriesDescription": "Kopf koronar"}, SetAside.NOT_AXIAL),
        # Turned by 35 degrees in the plane, and about the patient's long way from front to back.
        ({"ImageOrientationPatient": "0.819\\0.574\\0\\-0.574\\0.819\\0"}, SetAside.NOT_AXIAL),
        ({"ImageOrientationPatient": "0.819\\0\\0.574\\0\\1\\0"}, SetAside.NOT_AXIAL),
        ({"SeriesDescription": "CAP 5mm"}, SetAside.OTHER_BODY_PART),
        ({"SeriesDescription": "C-SPINE"}, SetAside.OTHER_BODY_PART),
        ({"SeriesDescription": "HEAD AND NECK"}, SetAside.OTHER_BODY_PART),
        ({"SeriesDescription": "NNH axial", "BodyPartExamined": "HEAD"}, SetAside.OTHER_BODY_PART),
        ({"SeriesDescription": "Polytrauma 5mm", "BodyPartExamined": "HEAD"}, SetAside.OTHER_BODY_PART),
        ({"SeriesDescription": "T\u00f3rax"}, SetAside.OTHER_BODY_PART),
        ({"BodyPartExamined": "ABDOMEN"}, SetAside.OTHER_BODY_PART),
        ({"StudyDescription": "CT Becken"}, SetAside.OTHER_BODY_PART),
        ({"SeriesDescription": "HEAD C+"}, SetAside.CONTRAST),
        ({"SeriesDescription": "Hirn mit KM"}, SetAside.CONTRAST),
        ({"SeriesDescription": "cerveau inject\u00e9"}, SetAside.CONTRAST),
        ({"SeriesDescription": "CTA Head 1.0"}, SetAside.CONTRAST),
        ({"ContrastBolusAgent": "Omnipaque 350"}, SetAside.CONTRAST),
        ({"ContrastBolusAgentSequence": "present"}, SetAside.CONTRAST),
        ({"SeriesDescription": "w and w/o", "ContrastBolusAgent": "Isovue"}, SetAside.CONTRAST),
    ],
)
def test_another_series_is_set_aside_with_its_reason(texts: dict[str, str], code: str) -> None:
    assert code_of(**texts) == code


def test_a_protocol_of_the_whole_body_does_not_say_which_part_a_series_shows() -> None:
    texts = {"SeriesDescription": "5mm ST", "ProtocolName": "CT POLYTRAUMA"}
    assert rank(make_series(**texts, BodyPartExamined="HEAD")).candidates == ["a"]
    assert code_of(**texts, BodyPartExamined="CHEST") == SetAside.OTHER_BODY_PART


def test_few_slices_are_not_a_series() -> None:
    assert rank(make_series(count=4)).set_aside["a"].code == SetAside.TOO_FEW_SLICES
    assert rank(make_series(count=5)).candidates == ["a"]


def test_a_bone_kernel_and_a_reformat_give_way_to_better_ones() -> None:
    bone = make_series("bone", ConvolutionKernel="Hr60f\\3")
    reformat = make_series("mpr", ImageType="DERIVED\\SECONDARY\\MPR", ConvolutionKernel="Hr40f")
    soft = make_series("soft", ConvolutionKernel="Hr40f", step=3.0, count=50)
    ranking = rank(bone, reformat, soft)
    assert ranking.candidates == ["soft"]
    assert {uid: remark.code for uid, remark in ranking.set_aside.items()} == {
        "bone": SetAside.BONE_KERNEL,
        "mpr": SetAside.DERIVED,
    }
    few = make_series("soft", ConvolutionKernel="Hr40f", count=8)  # does not span a head
    assert rank(bone, few).candidates == ["bone", "soft"]
    assert rank(bone, few).sharp == {"bone"}


def test_of_several_the_one_nearest_to_5_mm_comes_first() -> None:
    thin, thick = make_series("b", step=0.625, count=240), make_series("c", step=4.8)
    longer, short = make_series("d", step=5.0, count=34), make_series("a", step=5.0, count=12)
    assert rank(thin, thick, longer, short).candidates == ["d", "c", "b", "a"]
    assert rank(make_series("f"), make_series("e")).candidates == ["e", "f"]
    named = make_series("z", SeriesDescription="Brain", step=3.0, count=50)
    assert rank(thick, named).candidates == ["z", "c"]


def test_damaged_files_do_not_decide_and_files_without_a_series_belong_to_none() -> None:
    damaged = make_series(count=2, code=Refusal.TRUNCATED, SOPClassUID="", Modality="")
    stray = make_series("", count=1, code=Refusal.CORRUPT)
    assert rank(make_series(), damaged, stray)[:3] == (["a"], {}, frozenset())


@pytest.mark.parametrize(
    ("kernels", "sharp"),
    [
        ("H30s Hr40f\\3 J40s Br36 STANDARD SOFT UB A FC21 FC26 FC64", False),
        ("H60s Hr64h B70f BONE BONEPLUS EDGE LUNG YB D FC30 FC81", True),
        ("XYZ 12", None),
    ],
)
def test_kernels_by_their_names(kernels: str, sharp: bool | None) -> None:
    assert [is_sharp(kernel, "") for kernel in kernels.split(" ")] == [sharp] * len(kernels.split(" "))


def test_words_tell_a_kernel_that_has_no_name() -> None:
    assert is_sharp("", "Sch\u00e4del Knochen") is True
    assert is_sharp("", "Sch\u00e4del Weichteil") is False
    assert is_sharp("", "Sch\u00e4del") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CT head without contrast", False),
        ("non-contrast", False),
        ("NCCT", False),
        ("HEAD WO", False),
        ("post contrast", True),
        ("con y sin contraste", None),
        ("w/wo contrast", None),
        ("axial 5mm", None),
        ("HEAD AXIAL (enhanced conversion)", None),
        ("contrast (enhanced conversion)", True),
    ],
)
def test_contrast_in_words(text: str, expected: bool | None) -> None:
    assert tell_contrast(text) is expected


def test_details_quote_no_description() -> None:
    text = "Doe^Jane CHEST with contrast"
    for remark in rank(make_series(SeriesDescription=text)).set_aside.values():
        assert "Jane" not in remark.detail


@pytest.mark.parametrize("name", ["phantom", "conformant"])
def test_studies_of_a_phantom_are_read_and_whole(name: str, request: pytest.FixtureRequest) -> None:
    root = request.getfixturevalue(name)
    for _, rows in build_index(root).table.groupby("StudyInstanceUID"):
        study = rows.reset_index(drop=True)
        read = pd.DataFrame([read_attributes(root / path) for path in study["path"]])
        files = read.assign(**study, code="")
        assert rank_series(files)[:3] == ([study["SeriesInstanceUID"][0]], {}, frozenset())
        # Some have steps of several sizes or a second scan, as real ones do, which are notes and no reasons.
        assert {remark.code for remark in check_geometry(files)} <= {
            Note.UNEVEN_STEPS,
            Note.DUPLICATE_POSITION,
        }
