"""A study's page: it says what the result says, shows the slices that it should, and names nobody."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from results import GAP, ODD, TWICE, make_refused, make_result, make_slices
from torch import nn

from ich.dicom import read_hu
from ich.explain.heatmaps import explain_slices
from ich.index import build_index
from ich.models import SliceClassifier, SliceNet
from ich.outputs.pages import render_study_page, write_study_page
from ich.outputs.pages.drawing import draw_view, find_frame
from ich.outputs.pages.strip import draw_strip
from ich.outputs.pages.study import Attributes
from ich.outputs.pages.views import COUNT, SliceView, choose_slices, make_views
from ich.outputs.sentences import describe_called, describe_glance, show_label
from ich.schema import DISCLAIMER, LABELS, SUBTYPES, InputSpec
from ich.schema.codes import Note, Reason, SetAside
from ich.schema.results import LabelResult, Outcome, Remark, SeriesResult, StudyResult


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


class _Texts(HTMLParser):
    """What a page says, a block a line; cells of a row are separated by bars."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self._silent = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._silent = tag == "style"
        if tag not in ("span", "i", "strong", "a", "td", "th"):
            self.said.append("\n")
        self.said += [value for name, value in attrs if name == "alt" and value]

    def handle_endtag(self, tag: str) -> None:
        self._silent = False
        self.said.append(" | " if tag in ("td", "th") else "")

    def handle_data(self, data: str) -> None:
        self.said.append("" if self._silent else data)


def read_texts(html: str) -> str:
    parser = _Texts()
    parser.feed(html)
    return "\n".join(filter(None, (" ".join(line.split()) for line in "".join(parser.said).splitlines())))


def list_titles(html: str) -> list[str]:
    """The parts of a page in their order: result, picture, titles, and what is folded."""
    return [
        "".join(found).strip()
        for found in re.findall(
            r'<section class="(finding)"|<figure data-name="(slice)_|<h2>(.+)</h2>|<summary>(.+)</summary>',
            html,
        )
    ]


def test_a_page_of_a_positive_study(phantom: Path, series, model, tmp_path: Path) -> None:
    result = make_result(series, present=("subdural",), number=7)
    views = make_views(result, phantom, series.sample(frac=1, random_state=0), model)
    path = tmp_path / "page.html"
    write_study_page(result, views, path)
    html = path.read_text(encoding="utf-8")
    pictures = [base64.b64decode(found) for found in re.findall(r"data:image/png;base64,([^\"]+)", html)]
    assert len(pictures) == len(result.key_slices)
    assert all(png.startswith(b"\x89PNG") for png in pictures)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|<script|<link|@import|url\(", html)
    assert path.stat().st_mode & 0o077 == 0
    texts = read_texts(render_study_page(result, views))
    for said in (
        "Study 7: POSITIVE",
        "Signs of intracranial hemorrhage: subdural",
        "The probability of any hemorrhage is 0.91, at or above the decision threshold of 0.40.",
        "subdural 0.91\n",
        "Quality checks passed\nSimilar to training data (1.05; limit 1.60)",
        "any | 0.91 | 0.40 | present",
        "epidural | 0.03 | 0.40 | absent",
        "2 | CT | 2 | Not used: the series is a scout: ImageType holds LOCALIZER",
        "rule for the threshold | sensitivity 0.95",
        DISCLAIMER,
    ):
        assert said in texts
    for number in result.key_slices:
        found = result.slices[number]
        name = (
            f"Slice {number + 1} of {len(result.slices)} from below (InstanceNumber {found.InstanceNumber})"
        )
        assert f"{name}, at {found.position:.1f} mm: any {found.calibrated['any']:.2f}, subdural" in texts


def test_a_page_has_its_parts_in_the_order_of_a_reader(phantom: Path, series, model) -> None:
    folded = ["Series", "Quality checks", "Algorithm and limits"]
    strip = "Slices, inferior to superior"
    positive = make_result(series, reasons=[GAP])
    html = render_study_page(positive, make_views(positive, phantom, series, model))
    first = ["finding", "slice", "Reasons for caution", strip]
    more = ["More key slices", "slice", "slice", "Probabilities"]
    assert list_titles(html) == [*first, *more, *folded]
    assert list_titles(render_study_page(make_refused(), [])) == ["finding", folded[0], folded[2]]
    assert "<details open" not in html


def test_an_outcome_has_a_word_a_color_and_a_shape() -> None:
    found = set()
    for result, _ in OUTCOMES.values():
        html = render_study_page(result, [])
        (badge,) = re.findall(
            r'<span class="outcome ([a-z-]+)"><svg.*?>(.*?)</svg>([A-Z ]+)</span>', html, re.S
        )
        assert re.search(rf"^\.{badge[0]} {{ color: var\(--{badge[0]}\)", html, re.M)
        found.add(tuple(part.strip() for part in badge))
    assert {word for _, _, word in found} == {*Outcome, "NOT ANALYZED"}
    assert len({shape for _, shape, _ in found}) == len(found) == 4


def test_a_click_on_the_strip_shows_each_slice(phantom: Path, series) -> None:
    result = make_result(series)
    pictures = draw_strip(result, phantom, series.sample(frac=1, random_state=2))
    assert list(pictures) == list(range(len(result.slices)))
    html = render_study_page(result, [], pictures)
    picks = re.findall(
        r'<input [^>]*id="(pick-\d+)"( checked)?>\s*<label class="slot( key)?" for="(pick-\d+)"', html
    )
    assert [name for name, *_ in picks] == [f"pick-{each + 1}" for each in pictures]
    assert all(name == label for name, _, _, label in picks)
    first = f"pick-{result.key_slices[0] + 1}"
    assert [name for name, checked, *_ in picks if checked] == [first]
    assert {int(name[5:]) - 1 for name, _, key, _ in picks if key} == set(result.key_slices)
    heights = [float(height) for height in re.findall(r'<i style="height:([\d.]+)%"', html)]
    assert heights == [round(100 * each.calibrated["any"], 1) for each in result.slices]
    shown = re.findall(r"data:image/jpeg;base64,([^\"]+)", html)
    assert [base64.b64decode(each) for each in shown] == [each.jpeg for each in pictures.values()]
    with Image.open(io.BytesIO(pictures[len(pictures) // 2].jpeg)) as picture:
        assert picture.size == pictures[len(pictures) // 2].size
        assert np.asarray(picture).std() > 20  # a head, not a blank picture
    without = render_study_page(result, [])
    assert "<input" not in without
    assert without.count("<i style=") == len(result.slices)


def test_a_page_shows_attributes_only_if_they_are_asked_for(series) -> None:
    result = make_result(series)
    asked = Attributes({"PatientID": "P-17", "StudyDate": "20240102"}, {result.read_series: "HEAD 5mm"})
    texts = read_texts(render_study_page(result, [], attributes=asked))
    assert (
        "PatientID: P-17 \N{MIDDLE DOT} Study date: 2024-01-02 \N{MIDDLE DOT} Series description: HEAD 5mm"
        in texts
    )
    assert "1 | CT | 21 | HEAD 5mm | Analyzed".replace("21", str(len(series))) in texts
    plain = read_texts(render_study_page(result, []))
    assert not [word for word in ("P-17", "2024", "HEAD 5mm", "description") if word in plain]


def test_a_page_warns_of_evidence_outside_the_head() -> None:
    view = replace(make_view(slice(40, 80), slice(30, 90)), heat=np.zeros((128, 128), np.float32))
    for strays in (False, True):
        page = render_study_page(make_result(present=()), [replace(view, strays=strays)])
        assert ("do not rely on this heat map" in page) is strays


def test_a_page_names_no_one(phantom: Path, series, model) -> None:
    for result in (make_result(series), make_result(series, present=(), reasons=[GAP]), make_refused()):
        views = make_views(result, phantom, series, model) if result.outcome else []
        texts = read_texts(render_study_page(result, views))
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
    texts = read_texts(render_study_page(result, []))
    assert "Other slices with a high probability" in texts
    assert "Slices 5, 1, 2: not available. The file could not be read again." in texts


def test_heat_maps_that_cannot_be_made_are_missing_with_their_reason(phantom: Path, series) -> None:
    result = make_result(series)
    blank = SliceClassifier("test_resnet", input=InputSpec(size=64), pretrained=False).net.eval()
    nn.init.zeros_(blank.get_parameter("head.1.weight"))
    listed = ", ".join(str(number + 1) for number in result.key_slices)
    for model, why in ((None, "An exported model"), (blank, "The network cannot be explained: no heat map")):
        views = make_views(result, phantom, series, model)
        html = render_study_page(result, views)
        assert f"Heat map of slices {listed}: not available. {why}" in read_texts(html)
        assert html.count("in the brain window, and in the subdural window") == len(views)


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
    html = render_study_page(result, views, draw_strip(result, tmp_path, series))
    assert f"Slice {result.key_slices[1] + 1}: not available." in read_texts(html)
    assert html.count('<figure data-name="slice_') == len(kept)
    assert html.count("<input") == len(result.slices) - 1


OUTCOMES: dict[str, tuple[StudyResult, Sequence[str]]] = {
    "negative": (
        make_result(present=()),
        [
            "Study 1: NEGATIVE",
            "No sign of",
            "0.08, below the decision threshold of 0.40.",
            "Quality checks passed",
        ],
    ),
    "indeterminate": (
        make_result(present=(), reasons=[GAP]),
        [
            "No reliable result: please read as usual",
            "there are reasons not to call the study negative",
            "Reasons for caution",
            f"{Reason.GAP.sentence}: {GAP.detail} (gap)",
        ],
    ),
    "implausible": (
        make_result(reasons=[Remark(Reason.IMPLAUSIBLE_HU, "air at 0 HU")]),
        [
            "Study 1: INDETERMINATE",
            "at or above the decision threshold of 0.40, but the probability cannot be trusted.",
        ],
    ),
    "positive_with_reasons": (
        make_result(reasons=[GAP]),
        ["Study 1: POSITIVE", "Reasons for caution", Reason.GAP.sentence],
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
        ["Signs of intracranial hemorrhage\n", "subdural | 0.30 | 0.40 | absent"],
    ),
    "undecided": (
        make_result(decided=False, known=False),
        [
            "Score 0.91 for any hemorrhage, but this model has no decision threshold.",
            "any | 0.91 | none | not decided",
            "not calibrated",
        ],
    ),
    "refused": (
        make_refused(),
        [
            "Study 1: NOT ANALYZED",
            "Not analyzed: no axial head series (localizer only)",
            "This says nothing",
        ],
    ),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_what_a_page_says(name: str) -> None:
    result, expected = OUTCOMES[name]
    texts = read_texts(render_study_page(result, []))
    for said in (*expected, DISCLAIMER):
        assert said in texts
    assert ("Quality checks passed" in texts) is (result.outcome is not None and not result.reasons)


def test_a_page_explains_every_code() -> None:
    reasons, notes = ([Remark(code, "so much") for code in kind] for kind in (Reason, Note))
    result = replace(make_result(present=(), reasons=reasons), notes=tuple(notes))
    texts = read_texts(render_study_page(result, []))
    assert all(f"{code.sentence}: so much ({code})" in texts for code in (*Reason, *Note))


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


def test_a_study_that_was_not_analyzed_says_which_series_it_has() -> None:
    def say(*codes: str) -> str:
        aside = tuple(SeriesResult(f"2.25.{n}", "CT", 2, Remark(code, "")) for n, code in enumerate(codes))
        return describe_glance(replace(make_refused(), series=aside))

    assert (
        say("localizer", "dose_report") == "Not analyzed: no axial head series (localizer, dose report only)"
    )
    assert (
        say("localizer", "contrast") == "Not analyzed: no suitable series (localizer, contrast medium only)"
    )
    assert say(*SetAside).startswith("Not analyzed: no suitable series (other modality, localizer, ")


def test_a_series_that_was_not_used_says_why() -> None:
    other = SeriesResult("2.25.7", "CT", 2, Remark(SetAside.ANOTHER_READ, "suits better"))
    result = replace(make_result(), series=(*make_result().series, other))
    assert "4 | CT | 2 | Not used: a more suitable series was analyzed" in read_texts(
        render_study_page(result, [])
    )


def test_studies_of_every_outcome_are_pages(tmp_path: Path) -> None:
    for name, (result, _) in OUTCOMES.items():
        write_study_page(result, [], tmp_path / f"{name}.html")
    titles = {re.findall("<title>(.*)</title>", path.read_text())[0] for path in tmp_path.iterdir()}
    assert titles == {f"Study 1: {outcome}" for outcome in (*Outcome, "NOT ANALYZED")}


def test_a_subtype_without_an_operating_point_is_named_with_its_probability() -> None:
    result = make_result()
    labels = {**result.labels, "epidural": LabelResult(0.93, None, None)}
    texts = read_texts(render_study_page(replace(result, labels=labels), []))
    assert "epidural 0.93, not decided" in texts


def test_no_operating_point_is_not_reached_where_there_is_none() -> None:
    result = make_result()
    blind = {"any": result.labels["any"]} | dict.fromkeys(SUBTYPES, LabelResult(0.2, None, None))
    result = replace(result, labels=blind)
    texts = read_texts(render_study_page(result, []))
    assert all(f"{name} 0.20, not decided" in texts for name in SUBTYPES)
    assert "Not decided, as the model has no decision threshold: epidural (0.20), " in describe_called(result)
    assert "No subtype reaches" not in describe_called(result)


def test_the_headline_names_the_subtypes_that_the_model_cannot_assess() -> None:
    result = make_result()
    blind = dict(result.labels) | {"intraparenchymal": LabelResult(0.84, None, None)}
    said = describe_glance(replace(result, labels=blind))
    assert said == "Signs of intracranial hemorrhage: subdural; not assessed: intraparenchymal"
    blind |= dict.fromkeys(("epidural", "subarachnoid"), LabelResult(0.3, None, None))
    result = replace(result, labels=blind)
    assert describe_glance(result) == "Signs of intracranial hemorrhage: subdural; 3 subtypes not assessed"
    page = read_texts(render_study_page(result, []))  # their names stand below
    assert "epidural 0.30, not decided" in page


def test_a_slice_has_one_number_in_every_output() -> None:
    result = make_result()
    first = replace(result.slices[0], InstanceNumber=10, position=3.5)
    named = replace(result, slices=(first, *result.slices[1:]))
    assert named.name_slice(0) == f"slice 1 of {len(result.slices)} from below (InstanceNumber 10)"
    bare = replace(result, slices=(replace(first, position=None, InstanceNumber=None),))
    assert bare.name_slice(0) == "slice 1 of 1"
