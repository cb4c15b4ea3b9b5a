"""The page about a data set says what pydicom and pandas count in it, and no more than it may."""

from __future__ import annotations

import contextlib
import html.parser
import io
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from command import call

from ich.dicom.rescale import Rescale, to_hu
from ich.explore.document import NAMES
from ich.explore.highlights import make_highlights
from ich.explore.remark import Rank, Remark
from ich.explore.sample import draw_sample
from ich.explore.units import count_conflicts, count_labels, number_units
from ich.index import build_index, read_labels
from ich.index.encodings import Encoding
from ich.index.joining import join_labels
from ich.phantom import write_phantom
from ich.schema import LABELS, SUBTYPES
from ich.schema.codes import Quality, Refusal, describe_code


class Page(html.parser.HTMLParser):
    """The sections of a page: their text, and their tables by the name of a row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text: dict[str, str] = {}
        self.tables: dict[str, dict[str, list[str]]] = {}
        self.sources: list[str] = []
        self.highlights: list[str] = []
        self._section, self._open, self._row = "", "", list[str]()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.sources += [value or "" for name, value in attributes if name in ("src", "href")]
        if tag == "h2":
            self._section = ""
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th"):
            self._row.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.tables.setdefault(self._section, {})[self._row[0]] = self._row[1:]
        self._open = ""

    def handle_data(self, data: str) -> None:
        data = data.replace("\N{NO-BREAK SPACE}", " ")
        if self._open == "h2":
            self._section += data
        elif self._open == "h3" and self._section == "What stands out":
            self.highlights.append(data)
        elif self._open in ("td", "th"):
            self._row[-1] += data
        self.text[self._section] = self.text.get(self._section, "") + data

    @property
    def remarks(self) -> str:
        return self.text["What stands out"]


class Looked(NamedTuple):
    folder: Path
    page: Page


@pytest.fixture(scope="module")
def look(tmp_path_factory: pytest.TempPathFactory):
    def explore(root: Path, *options: str) -> Looked:
        out = tmp_path_factory.mktemp("looked") / "out"
        index = tmp_path_factory.mktemp("index")
        assert call("explore", str(root), "--index-dir", str(index), "--out", str(out), *options) == 0
        return Looked(out, Page(out / "explore.html"))

    return explore


@pytest.fixture(scope="module")
def looked(phantom: Path, look) -> Looked:
    return look(phantom)


@pytest.fixture(scope="module")
def headers(phantom: Path) -> pd.DataFrame:
    """What pydicom reads, one row per slice, with the labels as pandas reads them."""
    with pydicom.config.disable_value_validation():
        slices = [pydicom.dcmread(path) for path in sorted((phantom / "stage_2_train").iterdir())]
        rows = [
            {
                **{k: str(ds[k].value) for k in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID")},
                "id": ds.SOPInstanceUID,
                "encoding": f"{ds.BitsStored} bit {'signed' if ds.PixelRepresentation else 'unsigned'}, "
                f"intercept {ds.RescaleIntercept:g}",
                "syntax": ds.file_meta.TransferSyntaxUID.name,
                "hu": rescale(ds),
            }
            for ds in slices
        ]
    long = pd.read_csv(phantom / "stage_2_train.csv")
    long[["id", "label"]] = long["ID"].str.rsplit("_", n=1, expand=True)
    wide = long.pivot_table(index="id", columns="label", values="Label")[list(LABELS)]
    return pd.DataFrame(rows).join(wide, on="id")


def rescale(ds: pydicom.Dataset) -> np.ndarray:
    pixels = ds.pixel_array.astype(int)
    if ds.BitsStored == 12 and ds.PixelRepresentation == 0 and ds.RescaleIntercept > -100:
        return (pixels + 1000) % 4096 - 1000  # shifted and wrapped, as in the RSNA set
    return np.maximum(pixels + int(ds.RescaleIntercept), -1024)


def copy_slices(phantom: Path, root: Path, patients: int = 3) -> list[Path]:
    """Copies the slices of some patients without their labels, in order of the index."""
    table = build_index(phantom).table
    table = table[table["PatientID"].isin(table["PatientID"].unique()[:patients])]
    root.mkdir()
    for path in table["path"]:
        (root / Path(path).name).write_bytes((phantom / path).read_bytes())
    return [root / Path(path).name for path in table["path"]]


def test_it_counts_what_pydicom_and_pandas_count(looked: Looked, headers: pd.DataFrame) -> None:
    counts = looked.page.tables["Contents of the data set"]
    assert counts["slices"][0] == str(len(headers))
    for name, column in (
        ("series", "SeriesInstanceUID"),
        ("studies", "StudyInstanceUID"),
        ("patients", "PatientID"),
    ):
        assert counts[name][0] == str(headers[column].nunique())
    sizes = headers.groupby("SeriesInstanceUID").size()
    assert counts["slices"][1:] == [f"{sizes.median():g}", f"{sizes.min()} to {sizes.max()} a series"]
    tables = looked.page.tables["Headers"]
    for column in ("encoding", "syntax"):
        for name, count in headers[column].value_counts().items():
            assert tables[str(name)][0] == str(count)
    assert tables["64 x 64"][0] == str(len(headers))


def test_labels_by_slice_study_and_patient(looked: Looked, headers: pd.DataFrame) -> None:
    keys = ("id", "StudyInstanceUID", "PatientID")
    by_unit = [headers.groupby(key)[list(LABELS)].max() for key in keys]
    for label in LABELS:
        cells = looked.page.tables["Labels"][label]
        for cell, units in zip(cells, by_unit, strict=False):
            found = re.fullmatch(r"(\d+) \(([\d.]+) %\)", cell)
            assert int(found[1]) == units[label].sum()
            assert float(found[2]) == pytest.approx(100 * units[label].mean(), abs=0.5)
        positive = headers[label].sum()
        assert cells[3:] == [f"1 to {(len(headers) - positive) / positive:.1f}", "0"]
    together = looked.page.tables["Labels that occur together"]
    for number, count in headers[list(SUBTYPES)].sum(axis=1).value_counts().items():
        assert together[f"{number:g}"][0] == str(count)


def test_together_and_unknown_labels_are_counted_by_unit() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, np.nan], size=(400, 6), p=[0.8, 0.15, 0.05]).astype(np.float32)
    units = rng.permutation(np.arange(400) % 90)
    counts = count_labels(labels, units)
    frame = pd.DataFrame(labels).groupby(units)
    positive = frame.max() == 1
    unknown = ~positive & pd.DataFrame(np.isnan(labels)).groupby(units).any()
    assert counts.positive.tolist() == positive.sum().tolist()
    assert counts.unknown.tolist() == unknown.sum().tolist()
    assert (counts.positive + counts.negative + counts.unknown == 90).all()
    expected = [[int((positive[a] & positive[b]).sum()) for b in range(6)] for a in range(6)]
    assert counts.together.tolist() == expected
    known = ~unknown[list(range(5))].any(axis=1)
    assert counts.subtypes.tolist() == [
        int((positive.loc[known, list(range(5))].sum(axis=1) == n).sum()) for n in range(6)
    ]


def test_pixels_of_each_material(looked: Looked, headers: pd.DataFrame) -> None:
    hu = np.concatenate([slice_.ravel() for slice_ in headers["hu"]])
    rows = looked.page.tables["Hounsfield units"]
    limits = {"air": (-1024, -950), "water": (-5, 15), "soft tissue": (20, 45), "blood": (50, 90)}
    for name, (low, high) in (limits | {"bone": (300, 2000)}).items():
        assert rows[name][0] == f"{low} to {high}"
        share = 100 * ((hu >= low) & (hu <= high)).mean()
        assert float(rows[name][1].removesuffix(" %")) == pytest.approx(
            share, abs=0.5 if share >= 10 else 0.05
        )
    stored = dict(zip(rows[""][2:], rows["blood"][2:], strict=True))
    assert stored["stored: 12 bit unsigned, intercept -1024"] == "1074 to 1114"


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding(12, False, 1.0, -1024.0),
        Encoding(16, True, 1.0, 0.0),
        Encoding(16, True, -2.0, 100.0),
        Encoding(12, False, 1.0, 0.0),
        Encoding(12, False, 0.5, -10.0),
    ],
)
def test_stored_values_lead_back_to_their_hu(encoding: Encoding) -> None:
    for hu in ((-1000, -960), (-5, 15), (50, 90), (300, 700)):
        stored = np.array(encoding.to_stored(*hu)).round().astype(np.int32)
        kind = np.int16 if encoding.signed else np.uint16
        rescale = Rescale(encoding.bits, encoding.signed, encoding.slope, encoding.intercept, None)
        found = np.sort(to_hu(stored.astype(kind)[None], rescale)[0])
        low = (
            0 if encoding.wraps and encoding.slope == 1 and hu[0] < 0 < hu[1] else hu[0]
        )  # the wrap divides it
        assert found.tolist() == pytest.approx([low, hu[1]], abs=abs(encoding.slope))


def test_labels_that_contradict_each_other_are_counted() -> None:
    nan = np.nan
    rows = [
        [0, 0, 0, 0, 1, 0],  # a subtype without any
        [0, 0, 0, 0, 0, 1],  # any without a subtype
        [0, 0, 0, 0, nan, 1],
        [1, nan, 0, 0, 0, nan],
        [1, nan, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    assert count_conflicts(np.array(rows, np.float32)) == 3


def test_the_worst_stands_out_first_and_nothing_is_said_to_be_nothing() -> None:
    def make(rank: Rank, share: float = 0.0) -> Remark:
        return Remark(
            f"{rank.name} {share}", "A sentence.", "Labels", rank, share, {"a": 3, "b": 2.5}, "slices"
        )

    remarks = [make(Rank.MISLEADS), make(Rank.WEAKENS, 0.9), make(Rank.WEAKENS, 0.1), make(Rank.DIFFERS, 1.0)]
    *first, others = make_highlights([*remarks, make(Rank.INFORMS)])
    assert [(each.title, each.picture.name) for each in first] == [
        ("MISLEADS 0.0", "stands_out_1"),
        ("WEAKENS 0.9", "stands_out_2"),
        ("WEAKENS 0.1", "stands_out_3"),
    ]
    assert first[0].picture.alt == "Bar chart, slices: a 3, b 2.5"
    assert others.title == "Other remarks (2)"
    nothing, others = make_highlights([make(Rank.INFORMS)])
    assert nothing.text == "Nothing stands out."
    assert others.title == "Other remarks (1)"


def test_all_is_in_the_page_and_the_pictures_beside_it(looked: Looked) -> None:
    assert {path.name for path in looked.folder.iterdir()} == {"explore.html", *(f"{n}.png" for n in NAMES)}
    pictures = [source for source in looked.page.sources if not source.startswith("#")]
    assert len(pictures) == len(NAMES)
    assert all(source.startswith("data:image/png;base64,") for source in pictures)
    for name in NAMES:
        picture = cv2.imread(str(looked.folder / f"{name}.png"))
        assert picture.shape[1] <= 900  # narrow enough for a phone
        assert picture.std() > 5
    assert stat.S_IMODE(looked.folder.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in looked.folder.iterdir())


def test_it_is_spared_the_seconds_that_torch_takes() -> None:
    program = "import sys, ich.explore; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_it_says_what_stands_out(looked: Looked, headers: pd.DataFrame) -> None:
    for label in LABELS:
        patients = headers.loc[headers[label] == 1, "PatientID"].nunique()
        few = f"{label} has {headers[label].sum():g} positive slices in {patients} patient"
        assert (few in looked.page.remarks) == (patients < 10)
    several = headers.groupby("PatientID")["StudyInstanceUID"].nunique().gt(1).sum()
    assert f"{several} patients have several studies" in looked.page.remarks
    assert f"Pixels are stored in {headers['encoding'].nunique()} ways" in looked.page.remarks
    wrapped = (headers["encoding"] == "12 bit unsigned, intercept 0").sum()
    assert f"{wrapped} slices have 12 bit unsigned with an intercept above -100" in looked.page.remarks
    assert "cannot be read" not in looked.page.remarks
    assert "Check the intercept" not in looked.page.remarks


SAMPLE = ("--slices", "40")


class Twice(NamedTuple):
    """Two calls in one folder: the first with labels and ``SAMPLE``, the second without labels."""

    folder: Path
    names: set[str]
    first: bytes
    pages: tuple[Page, Page]
    printed: str


@pytest.fixture(scope="module")
def twice(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Twice:
    folder = tmp_path_factory.mktemp("twice")
    copy_slices(phantom, folder / "data", patients=1)
    with contextlib.chdir(folder):
        assert call("explore", str(phantom), "--index-dir", "index", *SAMPLE) == 0
        page, printed = Path("explore/explore.html"), io.StringIO()
        names, first = {path.name for path in page.parent.iterdir()}, Page(page)
        content = page.read_bytes()
        with contextlib.redirect_stdout(printed):
            assert call("explore", "data") == 0
        return Twice(folder, names, content, (first, Page(page)), printed.getvalue())


def test_without_labels_what_needs_them_is_not_available(twice: Twice) -> None:
    with_labels, page = twice.pages
    for section in ("Labels", "Labels that occur together"):
        assert "not available" in page.text[section]
        assert "--labels" in page.text[section]
    assert "without label row" in page.text["Slices through each window"]
    assert "There is 1 patient, which is too few" in twice.printed
    assert "not available" not in with_labels.text["Labels"]


def test_what_is_wrong_with_files_is_counted(phantom: Path, tmp_path: Path, look, damage) -> None:
    root = tmp_path / "data"
    paths = copy_slices(phantom, root)
    table = build_index(root).table
    uids = table["SOPInstanceUID"].tolist()
    assert (table["SeriesInstanceUID"] == table["SeriesInstanceUID"].iloc[0]).sum() > 8
    paths[4].unlink()  # a gap
    damage(paths[6])
    (root / "empty.dcm").write_bytes(b"")
    with pydicom.config.disable_value_validation():
        ds = pydicom.dcmread(paths[2])
        ds.PatientID, ds.SOPInstanceUID, ds.StudyInstanceUID = "twin", "ID_twin", "ID_twin"
        ds.SeriesInstanceUID = "ID_twin"
        ds.save_as(root / "twin.dcm")
        ds.PixelData = np.full(64 * 64, 1024 + 40, np.int16).tobytes()
        ds.PatientID, ds.SOPInstanceUID, ds.StudyInstanceUID = "constant", "ID_constant", "ID_constant"
        ds.SeriesInstanceUID = "ID_constant"
        ds.save_as(root / "constant.dcm")
    labels = pd.DataFrame(0, index=range(len(uids)), columns=list(LABELS)).assign(SOPInstanceUID=uids)
    labels.loc[:, "any"] = 1
    labels["epidural"] = 1
    labels.loc[7, list(LABELS)] = None
    labels = pd.concat([labels, labels.iloc[:2]])
    labels.to_csv(root / "labels.csv", index=False)
    page = look(root).page
    findings = page.tables["Data quality"]
    assert findings["refused: The file is empty (empty)"][0] == "1"
    assert findings["labels given more than once"][0] == "2"
    assert findings["the same pixels as another patient's slice"][0] == "2"
    assert findings[describe_code(Quality, "gap")][0] == "1"
    assert findings[f"cannot be read: {describe_code(Refusal, 'corrupt')}"][0] == "1"
    assert findings[describe_code(Quality, "constant")][0] == "1"
    for remark in (
        "1 file was refused, all as empty",
        f"The pixels of 1 of {len(uids) + 1} slices in the sample cannot be read",
        "2 slices have the same pixels as a slice of another patient",
        "3 slices have no label",
        "The labels name 1 slice without a file",
        "epidural is positive in every labeled slice",
        "subdural has no positive slice",
        f"{Quality.GAP.sentence}: 1 series.",
    ):
        assert remark in page.remarks
    assert page.highlights[:3] == [
        "Patients share the same pixels",
        "Some labels cannot be learned",
        "Some slices have no label",
    ]
    assert "A slice of: intraparenchymal" in page.text["Slices through each window"]


def test_a_wrong_intercept_stands_out_and_unreadable_slices_are_not_an_error(
    phantom: Path, tmp_path: Path, look, damage
) -> None:
    paths = copy_slices(phantom, tmp_path / "data", patients=1)
    with pydicom.config.disable_value_validation():
        for path in paths:
            ds = pydicom.dcmread(path)
            ds.RescaleIntercept = ds.RescaleIntercept + 100
            ds.save_as(path)
    assert "Check the intercept" in look(tmp_path / "data").page.remarks
    for path in paths:
        damage(path)
    page = look(tmp_path / "data").page
    for section in ("Hounsfield units", "Slices through each window", "One series from bottom to top"):
        assert "not available" in page.text[section]


@pytest.fixture(scope="module")
def conformant(tmp_path_factory: pytest.TempPathFactory, look) -> Looked:
    """Of few slices, whose pixels are all compared."""
    root = tmp_path_factory.mktemp("conformant") / "data"
    write_phantom(root, patients=1, size=64, conformant=True)
    return look(root, "--slices", "5", "--hash")


def test_the_header_identifies_nobody(conformant: Looked) -> None:
    page = conformant.page
    header = page.tables["The header of one slice"]
    for keyword in (
        "PatientName",
        "PatientID",
        "StudyInstanceUID",
        "SOPInstanceUID",
        "StudyDate",
        "InstitutionName",
    ):
        assert header[keyword][0] == "masked"
    assert header["Rows"] == ["64", "(0028,0010)", "US"]
    assert header["SOPClassUID"][0] == "CT Image Storage"
    assert header["ConvolutionKernel"][0] == "SOFT"
    assert header["PatientSex"][0] == "empty"


def test_a_sample_is_spread_and_the_same_every_time(phantom: Path, look, twice: Twice) -> None:
    again = look(phantom, *SAMPLE)
    assert (again.folder / "explore.html").read_bytes() == twice.first
    assert "40 of " in again.page.text["Hounsfield units"]
    assert "--hash compares all" in again.page.text["Data quality"]
    table = join_labels(build_index(phantom).table, read_labels(phantom / "stage_2_train.csv"))[0]
    patients = number_units(table)["patient"].to_numpy()
    rows = draw_sample(table, patients, 40)
    assert len(set(rows)) == 40
    assert set(patients[rows]) == set(patients)
    for subtype in SUBTYPES:
        assert (table[subtype].iloc[rows] == 1).sum() >= min(4, (table[subtype] == 1).sum())
    order = np.random.default_rng(0).permutation(len(table))
    shuffled = draw_sample(table.iloc[order], patients[order], 40)
    assert set(order[shuffled]) == set(rows)


def test_all_slices_are_compared_when_asked(conformant: Looked) -> None:
    slices = int(conformant.page.tables["Contents of the data set"]["slices"][0])
    assert slices > 5
    found = conformant.page.tables["Data quality"]["the same pixels as another patient's slice"]
    assert found == ["0", f"of {slices} slices"]


def test_a_folder_with_other_files_is_not_changed(
    twice: Twice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    assert "labels.png" in twice.names
    shutil.copytree(twice.folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    assert not Path("explore/labels.png").exists()  # the page is of a call without labels
    Path("explore/mine.txt").write_text("mine")
    assert call("explore", "data") == 2
    assert "mine.txt" in capsys.readouterr().err
    assert Path("explore/mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere does not exist"),
        (["empty"], "holds no DICOM file"),
        (["data", "--labels", "other.csv"], "no slice has a label"),
        (["data", "--labels", "nowhere.csv"], "nowhere.csv does not exist"),
        (["data", "--slices", "0"], "slices=0"),
        (["data", "--out", "other.csv"], "is not a folder"),
        (["data", "--out", "other.csv/page"], "cannot write to other.csv/page: name another folder"),
        (["several"], "several label files (a.csv, b.csv)"),
    ],
)
def test_what_cannot_be_looked_at_is_one_message(
    phantom: Path, tmp_path: Path, monkeypatch, capsys, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_slices(phantom, tmp_path / "data", patients=1)
    for folder in ("empty", "several"):
        Path(folder).mkdir()
    for path in ("other.csv", "several/a.csv", "several/b.csv"):
        Path(path).write_text("ID,Label\nID_other_any,1\n")
    assert call("explore", *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert not Path("explore").exists()
