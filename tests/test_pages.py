"""A study's page: it says what the result says, shows the slices that it should, and names nobody."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from results import GAP, ODD, TWICE, make_refused, make_result, make_slices
from torch import nn

from ich.dicom import read_hu
from ich.explain.heatmaps import explain_slices
from ich.index import build_index
from ich.models import SliceClassifier, SliceNet
from ich.outputs.pages import make_document, write_study_page
from ich.outputs.pages.drawing import draw_timeline, draw_view, find_frame
from ich.outputs.pages.views import COUNT, SliceView, choose_slices, make_views
from ich.outputs.sentences import describe_glance, show_label, show_prob
from ich.report.document import Document, Listing, Missing, Picture, Table, Text
from ich.schema import DISCLAIMER, LABELS, SUBTYPES, InputSpec
from ich.schema.codes import Note, Reason
from ich.schema.results import LabelResult, Outcome, Remark, StudyResult


@pytest.fixture(scope="module")
def series(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The index of the phantom's largest series."""
    table = build_index(phantom, index_dir=tmp_path_factory.mktemp("index")).table
    largest = table["SeriesInstanceUID"].value_counts().sort_index().idxmax()
    return table[table["SeriesInstanceUID"] == largest].reset_index(drop=True)


@pytest.fixture(scope="module")
def model() -> SliceNet:
    torch.manual_seed(0)
    spec = InputSpec(size=64, neighbors=1)
    model = SliceClassifier("test_resnet", input=spec, pretrained=False).net
    nn.init.normal_(model.get_parameter("head.1.weight"))
    return model.eval()


def list_blocks(document: Document, title: str) -> Sequence[object]:
    (section,) = (section for section in document.sections if section.title == title)
    return section.blocks


def read_texts(document: Document) -> str:
    """All that a page says, a block a line."""
    lines = [document.title, document.subtitle, document.note]
    for section in document.sections:
        lines.append(section.title)
        for block in section.blocks:
            match block:
                case Text():
                    lines.append(block.text)
                case Listing():
                    lines += block.items
                case Table():
                    lines += [block.caption, *(" | ".join(row) for row in (block.header, *block.rows))]
                case Picture():
                    lines += [block.caption, block.alt]
                case Missing():
                    lines.append(f"{block.what}: not available. {block.why}")
    return "\n".join(lines)


def test_a_page_of_a_positive_study(phantom: Path, series, model, tmp_path: Path) -> None:
    result = make_result(series, present=("subdural",), number=7)
    views = make_views(result, phantom, series.sample(frac=1, random_state=0), model)
    path = tmp_path / "page.html"
    write_study_page(result, views, path)
    html = path.read_text(encoding="utf-8")
    pictures = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    assert len(pictures) == len(result.key_slices) + 1
    assert all(png.startswith(b"\x89PNG") for png in pictures)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", html)
    assert path.stat().st_mode & 0o077 == 0
    texts = read_texts(make_document(result, views))
    for said in (
        "Study 7: POSITIVE",
        "Signs of intracranial hemorrhage: subdural",
        "The probability of any hemorrhage is 0.91, at or above the operating point of 0.40.",
        "Called present: subdural (0.91).",
        "its distance is 1.05",
        "any | 0.91 | 0.40 | present",
        "epidural | 0.03 | 0.40 | absent",
        "2 | CT | 2 | not read: The series is a scout: ImageType holds LOCALIZER (localizer)",
        "rule for the operating point | sensitivity 0.95",
        DISCLAIMER,
    ):
        assert said in texts
    for number in result.key_slices:
        found = result.slices[number]
        name = (
            f"Slice {number + 1} of {len(result.slices)} from below (InstanceNumber {found.InstanceNumber})"
        )
        alone = f"Probability of this slice alone, calibrated: any {found.calibrated['any']:.2f}, subdural"
        assert f"{name}, at {found.position:.1f} mm. {alone}" in texts


def test_a_page_names_no_one(phantom: Path, series, model) -> None:
    for result in (make_result(series), make_result(series, present=(), reasons=[GAP]), make_refused()):
        views = make_views(result, phantom, series, model) if result.outcome else []
        texts = read_texts(make_document(result, views))
        names = [result.PatientID, result.StudyInstanceUID, *(s.SeriesInstanceUID for s in result.series)]
        names += [each.SOPInstanceUID for each in result.slices]
        names += [str(phantom), phantom.name, *series["path"], *(Path(path).name for path in series["path"])]
        assert not [name for name in names if name in texts]


def test_views_are_of_the_slices_and_their_neighbors(phantom: Path, series, model) -> None:
    """Whatever the order of the rows: by position, as in prediction."""
    result = make_result(series)
    by_position = series.sort_values("position", ignore_index=True)
    views = make_views(result, phantom, series.sample(frac=1, random_state=1), model)
    assert tuple(view.number for view in views) == result.key_slices
    expected = explain_slices(model, phantom, by_position, result.key_slices, ["any"])
    for view, heat in zip(views, expected, strict=True):
        row = by_position.iloc[view.number]
        assert row["SOPInstanceUID"] == result.slices[view.number].SOPInstanceUID
        np.testing.assert_array_equal(view.hu, read_hu(phantom / row["path"]))
        np.testing.assert_array_equal(view.heat, heat.heat["any"])
        assert view.spacing == (row["row_spacing"], row["column_spacing"])


def test_slices_that_are_not_positive_are_the_highest(series) -> None:
    result = make_result(series, present=(), reasons=[GAP])
    raised = replace(result.slices[4], probs=dict.fromkeys(LABELS, 0.0) | {"any": 0.2})
    result = replace(result, slices=(*result.slices[:4], raised, *result.slices[5:]))
    assert choose_slices(result)[0] == 4
    assert len(choose_slices(result)) == COUNT
    assert choose_slices(make_result(make_slices(2), present=())) == (0, 1)
    texts = read_texts(make_document(result, []))
    assert "The study was not called positive" in texts
    assert "Slices 5, 1, 2: not available. The file could not be read again." in texts


def test_heat_maps_that_cannot_be_made_are_missing_with_their_reason(phantom: Path, series) -> None:
    result = make_result(series)
    blank = SliceClassifier("test_resnet", input=InputSpec(size=64), pretrained=False).net.eval()
    nn.init.zeros_(blank.get_parameter("head.1.weight"))
    listed = ", ".join(str(number + 1) for number in result.key_slices)
    for model, why in ((None, "An exported model"), (blank, "The network cannot be explained: no heat map")):
        views = make_views(result, phantom, series, model)
        document = make_document(result, views)
        (missing,) = (b for b in list_blocks(document, "Key slices") if isinstance(b, Missing))
        assert missing.what == f"Heat map of slices {listed}"
        assert missing.why.startswith(why)
        alts = [picture.alt for picture in document.pictures[:-1]]
        assert all(alt.endswith("in the subdural window") for alt in alts)


def test_a_file_that_can_no_longer_be_read_is_missing(phantom: Path, series, model, tmp_path: Path) -> None:
    result = make_result(series)
    by_uid = series.set_index("SOPInstanceUID")
    for number, each in enumerate(result.slices):
        path = tmp_path / by_uid["path"][each.SOPInstanceUID]
        path.parent.mkdir(parents=True, exist_ok=True)
        if number != result.key_slices[1]:
            path.write_bytes((phantom / by_uid["path"][each.SOPInstanceUID]).read_bytes())
    views = make_views(result, tmp_path, series, model)
    kept = (result.key_slices[0], *result.key_slices[2:])
    assert tuple(view.number for view in views) == kept
    document = make_document(result, views)
    assert f"Slice {result.key_slices[1] + 1}: not available." in read_texts(document)
    assert len(document.pictures) == len(kept) + 1


OUTCOMES: dict[str, tuple[StudyResult, Sequence[str]]] = {
    "negative": (
        make_result(present=()),
        ["Study 1: NEGATIVE", "No sign of", "0.08, below the operating point of 0.40.", "All slices of the"],
    ),
    "indeterminate": (
        make_result(present=(), reasons=[GAP]),
        [
            "there are reasons not to call the study negative",
            "Why:",
            f"{Reason.GAP.sentence}: {GAP.detail} (gap)",
        ],
    ),
    "implausible": (
        make_result(reasons=[Remark(Reason.IMPLAUSIBLE_HU, "air at 0 HU")]),
        [
            "Study 1: INDETERMINATE",
            "at or above the operating point of 0.40, but the probability cannot be trusted.",
        ],
    ),
    "positive_with_reasons": (
        make_result(reasons=[GAP]),
        ["Study 1: POSITIVE", "Reasons for caution:", Reason.GAP.sentence],
    ),
    "left_out": (
        make_result(present=(), notes=[TWICE], reasons=[ODD], left_out={2: ODD, 4: TWICE}),
        [
            "Notes, which do not count against a negative result:",
            f"{Note.REPEATED_SLICE.sentence}: {TWICE.detail} (repeated_slice)",
            "These slices do not count for the study:",
            f"Slice 3 of 12: {ODD.detail} (implausible_slice)",
            "Slice 5 of 12: ",
        ],
    ),
    "no_subtype": (
        replace(make_result(), labels=make_result().labels | {"subdural": LabelResult(0.3, 0.4, False)}),
        ["Signs of intracranial hemorrhage\n", "No subtype reaches its operating point"],
    ),
    "undecided": (
        make_result(decided=False, known=False),
        [
            "0.91, but there is no operating point to decide with.",
            "any | 0.91 | none | not decided",
            "not calibrated",
        ],
    ),
    "refused": (
        make_refused(),
        [
            "Study 1: NOT READ",
            "The study was not read. No series: of 1 series none is",
            "The result says nothing",
        ],
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_a_page_says(name: str) -> None:
    result, expected = OUTCOMES[name]
    texts = read_texts(make_document(result, []))
    for said in (*expected, DISCLAIMER):
        assert said in texts
    assert ("These checks passed" in texts) is (result.outcome is not None and not result.reasons)


def test_a_page_explains_every_code() -> None:
    reasons, notes = ([Remark(code, "so much") for code in kind] for kind in (Reason, Note))
    result = replace(make_result(present=(), reasons=reasons), notes=tuple(notes))
    texts = read_texts(make_document(result, []))
    assert all(f"{code.sentence}: so much ({code})" in texts for code in (*Reason, *Note))


@pytest.mark.parametrize(
    ("prob", "shown"), [(0.3, "0.30"), (0.0004, "<0.01"), (0.9999, ">0.99"), (0.0, "0.00"), (1.0, "1.00")]
)
def test_a_probability_is_never_said_to_be_certain(prob: float, shown: str) -> None:
    assert show_prob(prob) == shown


@pytest.mark.parametrize(
    ("prob", "threshold", "shown"),
    [
        (0.0213, 0.0208, ("0.0213", "0.0208")),
        (0.9999, 0.99994, ("0.99990", "0.99994")),
        (0.5, 0.5, ("0.50", "0.50")),
        (0.5, 0.1, ("0.50", "0.10")),
        (0.3, None, ("0.30", "none")),
    ],
)
def test_a_probability_and_its_operating_point_are_shown_as_different(prob, threshold, shown) -> None:
    assert show_label(LabelResult(prob, threshold, None)) == shown


def list_lines(figure: Figure) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    lines = {str(line.get_label()): line for line in figure.axes[0].lines}
    return {
        name: (np.asarray(line.get_xdata()), np.asarray(line.get_ydata())) for name, line in lines.items()
    }


def test_the_timeline_is_drawn_from_the_slices() -> None:
    result = make_result(present=("subdural", "epidural"))
    figure = draw_timeline(result)
    lines = list_lines(figure)
    assert {"any", "subdural", "epidural"} == {name for name in lines if not name.startswith("_")}
    for label in ("any", "subdural"):
        places, values = lines[label]
        assert places.tolist() == [each.position for each in result.slices]
        assert values.tolist() == [each.calibrated[label] for each in result.slices]
    # They can be distinguished without color.
    drawn = [line for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")]
    assert len({(line.get_linestyle(), line.get_marker()) for line in drawn}) == 3
    low, high = min(result.key_slices), max(result.key_slices)
    assert [text.get_text() for text in figure.axes[0].texts] == [f"{low + 1}\N{EN DASH}{high + 1}"]


def test_the_timeline_of_slices_without_position_or_calibration() -> None:
    result = make_result(make_slices().assign(position=float("nan")), present=(), decided=False)
    places, values = list_lines(draw_timeline(result))["any"]
    assert places.tolist() == list(range(1, 13))
    assert values.tolist() == [each.probs["any"] for each in result.slices]
    assert "not calibrated" in read_texts(make_document(result, []))


def make_view(rows: slice, columns: slice, shape: tuple[int, int] = (128, 128), number: int = 0) -> SliceView:
    hu = np.full(shape, -1000, np.int16)
    hu[rows, columns] = 40
    hu[-4:, :] = 40  # a table, smaller than the head
    return SliceView(number, hu, (0.5, 0.5), "none", True)


def test_slices_are_cut_to_the_heads_at_one_scale() -> None:
    views = [make_view(slice(40, 80), slice(30, 90)), make_view(slice(50, 100), slice(50, 100))]
    assert find_frame(views) == (slice(36, 104), slice(26, 104))
    whole = (slice(None), slice(None))
    assert find_frame([*views, make_view(slice(9, 20), slice(9, 20), (64, 64))]) == whole
    assert find_frame([replace(views[0], hu=np.full((128, 128), -1000, np.int16))]) == whole
    frame = find_frame(views)
    for axes in draw_view(views[0], frame).axes:
        np.testing.assert_array_equal(axes.images[0].get_array(), views[0].hu[frame])


def test_pixels_that_are_not_square_keep_their_shape() -> None:
    view = replace(make_view(slice(40, 80), slice(40, 80)), spacing=(1.0, 0.5))
    view = replace(view, heat=np.linspace(0, 1, 128 * 128, dtype=np.float32).reshape(128, 128))
    figure = draw_view(view, find_frame([view]))
    assert len(figure.axes) == 2
    assert {axes.get_aspect() for axes in figure.axes} == {2.0}
    assert figure.get_size_inches()[1] > figure.get_size_inches()[0]


def test_studies_of_every_outcome_are_pages(tmp_path: Path) -> None:
    for name, (result, _) in OUTCOMES.items():
        write_study_page(result, [], tmp_path / f"{name}.html")
    titles = {re.findall("<h1>(.*)</h1>", path.read_text())[0] for path in tmp_path.iterdir()}
    assert titles == {f"Study 1: {outcome}" for outcome in (*Outcome, "NOT READ")}


def test_a_subtype_without_an_operating_point_is_named_with_its_probability() -> None:
    result = make_result()
    labels = {**result.labels, "epidural": LabelResult(0.93, None, None)}
    texts = read_texts(make_document(replace(result, labels=labels), []))
    assert "Not decided, as the model has no operating point: epidural (0.93)." in texts


def test_no_operating_point_is_not_reached_where_there_is_none() -> None:
    result = make_result()
    blind = {"any": result.labels["any"]} | dict.fromkeys(SUBTYPES, LabelResult(0.2, None, None))
    texts = read_texts(make_document(replace(result, labels=blind), []))
    assert "Not decided, as the model has no operating point: epidural (0.20), " in texts
    assert "No subtype reaches" not in texts


def test_the_headline_names_the_subtypes_that_the_model_cannot_assess() -> None:
    result = make_result()
    blind = dict(result.labels) | {"intraparenchymal": LabelResult(0.84, None, None)}
    said = describe_glance(replace(result, labels=blind))
    assert said == "Signs of intracranial hemorrhage: subdural; not assessed: intraparenchymal"


def test_a_slice_has_one_number_in_every_output() -> None:
    result = make_result()
    first = replace(result.slices[0], InstanceNumber=10, position=3.5)
    named = replace(result, slices=(first, *result.slices[1:]))
    assert named.name_slice(0) == f"slice 1 of {len(result.slices)} from below (InstanceNumber 10)"
    bare = replace(result, slices=(replace(first, position=None, InstanceNumber=None),))
    assert bare.name_slice(0) == "slice 1 of 1"
