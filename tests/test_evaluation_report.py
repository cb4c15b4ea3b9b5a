"""An evaluation as report, deck, model card and checklist: what is in them, and what is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from predictions import keep_any, make_table

from ich.evaluate import evaluate
from ich.evaluate.comparison import compare
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.figures import Estimate
from ich.evaluate.subgroups import subgroups
from ich.evaluation_report.captions import plan_pictures
from ich.evaluation_report.claim import NOT_AVAILABLE, make_claim
from ich.evaluation_report.deck import make_deck
from ich.evaluation_report.document import make_document
from ich.evaluation_report.model_card import make_model_card
from ich.evaluation_report.pictures.cases import Case, draw_cases
from ich.evaluation_report.report_data import ReportData
from ich.evaluation_report.run import Run, read_run
from ich.evaluation_report.verdict import say_calibration
from ich.report.document import Document, Listing, Missing, Picture, Section, Table, Text
from ich.report.figures import encode_png
from ich.report.markdown import render_markdown
from ich.schema import DISCLAIMER, LABELS

LEVELS = ("slice", "study", "patient")
REPLICATES = 40


@pytest.fixture(scope="module")
def plain() -> ReportData:
    """Of predictions alone."""
    table = make_table(patients=40)
    return ReportData(evaluate(table, replicates=REPLICATES), table)


@pytest.fixture(scope="module")
def full() -> ReportData:
    """Of all that there can be; epidural in two patients only."""
    table, validation = make_table(patients=60), make_table(patients=50, seed=1, part="val")
    rare = table["PatientID"].isin(["P1", "P2"])
    table["target_epidural"] = np.where(rare, 1.0, 0.0)
    table.loc[:5, "target_subdural"] = np.nan
    decisions = fit_decisions(validation, levels=LEVELS)
    by = pd.Series(np.where(np.arange(len(table)) % 2, "odd", "even"), name="parity")
    groups = subgroups(table, by, decision=decisions["slice"], labels=("any",), replicates=REPLICATES)
    other = table.assign(**{f"prob_{label}": table[f"prob_{label}"] / 2 for label in LABELS})
    return ReportData(
        evaluation=evaluate(table, decisions=decisions, replicates=REPLICATES),
        predictions=table,
        validation=validation,
        decisions=decisions,
        run=Run({"backbone": "resnet18", "split": "by patient"}, {"train": (700, 30)}),
        encodings={"16 bit signed, intercept -1024": (100, 9)},
        groups=groups,
        comparison=compare({"A": table, "B": other}, replicates=REPLICATES),
        galleries=[
            Picture("false_negatives_1", encode_png(Figure((1, 1))), "Worst false negatives", "Slices")
        ],
    )


def draw(data: ReportData) -> dict[str, Picture]:
    return {name: plan() for name, plan in plan_pictures(data).items()}


@pytest.fixture(scope="module")
def pictures(full: ReportData) -> dict[str, Picture]:
    return draw(full)


def list_tables(document: Document) -> list[Table]:
    return [block for block in document.blocks if isinstance(block, Table)]


def list_missing(document: Document) -> dict[str, str]:
    return {block.what: block.why for block in document.blocks if isinstance(block, Missing)}


def read_text(document: Document) -> str:
    return re.sub(r"\\(.)", r"\1", render_markdown(document))


def find_table(document: Document, words: str) -> Table:
    (table,) = (table for table in list_tables(document) if words in table.caption)
    return table


STORY = [
    "Verdict",
    "Data",
    "Discrimination",
    "Operating points",
    "Calibration",
    "Subgroups",
    "Errors",
    "Comparison",
    "Limits",
    "How to reproduce",
]


def test_report_begins_with_its_verdict(full: ReportData, pictures: dict[str, Picture]) -> None:
    document = make_document(full, pictures)
    assert [section.title for section in document.sections] == STORY
    assert document.note == DISCLAIMER
    assert list_missing(document) == {}
    assert {picture.name for picture in document.pictures} == {*pictures, "false_negatives_1"}
    assert len({picture.name for picture in document.pictures}) == len(document.pictures)

    sentence, facts, table = document.sections[0].blocks
    figures = full.evaluation.levels["study"].labels["any"]
    point = figures.operating_point
    assert isinstance(sentence, Text)
    assert isinstance(facts, Listing)
    assert isinstance(table, Table)
    assert sentence.text == (
        f"AUROC {figures.auroc:.3f} for any hemorrhage by study, in 60 patients, "
        f"{figures.counts.positive_patients} of them positive."
    )
    assert f"sensitivity {point.sensitivity:.3f}, specificity {point.specificity:.3f}" in facts.items[0]
    assert f"{point.false_negatives} false negative" in facts.items[0]
    assert "calibrat" in facts.items[1].lower()
    assert facts.items[2] == "Too few positive patients: epidural 2. At least 5 are needed."
    assert table.rows[0] == [
        "any",
        f"{figures.counts.positives} ({figures.counts.positive_patients})",
        f"{figures.auroc:.3f}",
        f"{point.sensitivity:.3f}",
        f"{point.specificity:.3f}",
    ]


@pytest.mark.parametrize(
    ("slope", "large", "said"),
    [
        (Estimate(1.0, 0.8, 1.2), Estimate(0.0, -0.3, 0.3), "Calibration holds: calibrated"),
        (Estimate(0.7, 0.5, 0.9), Estimate(0.0, -0.3, 0.3), "Calibration does not hold"),
        (Estimate(1.0, 0.8, 1.2), Estimate(0.5, 0.2, 0.6), "Calibration does not hold"),
        (Estimate(1.0, 0.3, 2.5), Estimate(0.0, -0.3, 0.3), "The intervals are too wide"),
        (Estimate(1.0, 0.8, 1.2), Estimate(0.1, -1.0, 1.2), "The intervals are too wide"),
        (Estimate(1.0, np.nan, np.nan, "only 2"), Estimate(0.0, -0.3, 0.3), "We cannot say .* only 2"),
    ],
)
def test_calibration_holds_only_if_its_intervals_show_it(
    full: ReportData, slope: Estimate, large: Estimate, said: str
) -> None:
    level = full.evaluation.levels["study"]
    each = level.labels["any"]
    each = replace(each, calibrated=replace(each.calibrated, slope=slope, in_the_large=large))
    levels = {"study": replace(level, labels={**level.labels, "any": each})}
    data = replace(full, evaluation=replace(full.evaluation, levels=levels))
    assert re.match(said, say_calibration(data))


def test_every_table_says_patients_and_interval(full: ReportData, pictures: dict[str, Picture]) -> None:
    tables = list_tables(make_document(full, pictures))
    assert len(tables) > 15
    for table in tables:
        assert "patient" in table.caption or "patients" in table.header, table.caption
        assert "interval" in table.caption or "in brackets the number of patients" in table.caption, (
            table.caption
        )


def test_figures_are_those_of_the_evaluation(full: ReportData, pictures: dict[str, Picture]) -> None:
    document = make_document(full, pictures)
    figures = full.evaluation.levels["study"].labels["any"]
    (row,) = (row for row in find_table(document, "Discrimination by study").rows if row[0] == "any")
    assert row[1] == f"{figures.counts.positives} ({figures.counts.positive_patients})"
    assert row[2] == f"{figures.auroc:.3f}"
    point = full.evaluation.levels["slice"].labels["any"].operating_point
    (row,) = (row for row in find_table(document, "operating points by slice").rows if row[0] == "any")
    assert row[2] == f"{point.sensitivity:.3f}"
    assert row[-1].split(" / ") == [
        f"{point.true_positives:,}",
        f"{point.false_negatives:,}",
        f"{point.true_negatives:,}",
        f"{point.false_positives:,}",
    ]
    prevalences = [value.prevalence for value in point.at_prevalences]
    rows = find_table(document, "Predictive values by slice").rows
    expected = [f"any, {100 * prevalence:.0f} %" for prevalence in prevalences]
    assert [row[0] for row in rows if row[0].startswith("any")] == expected


def test_few_positives_are_said_in_words(full: ReportData, pictures: dict[str, Picture]) -> None:
    document = make_document(full, pictures)
    data = next(section for section in document.sections if section.title == "Data")
    assert any(isinstance(b, Text) and b.strong and "epidural 2" in b.text for b in data.blocks)
    limits = next(section for section in document.sections if section.title == "Limits").blocks[0]
    assert isinstance(limits, Listing)
    assert any("few patients: epidural 2" in item for item in limits.items)
    (row,) = (row for row in find_table(document, "Discrimination by slice").rows if row[0] == "epidural")
    assert row[2] == f"{full.evaluation.levels['slice'].labels['epidural'].auroc.value:.3f}"
    assert "epidural: only 2 patients with a positive slice; at least 5 needed" in read_text(document)
    assert "epidural" not in pictures["slice_roc"].alt
    assert "Not available: epidural." in pictures["slice_roc"].caption
    assert "subdural 6" in read_text(document)  # targets that are not known


def test_what_lacks_its_input_is_not_available() -> None:
    table = keep_any(make_table(patients=20))
    data = ReportData(evaluate(table, replicates=REPLICATES), table)
    document = make_document(data, draw(data))
    missing = list_missing(document)
    assert {
        "Scanner encodings",
        "How the model was trained",
        "Calibration and operating points",
        "Operating points by study",
        "Subgroups",
        "Comparison",
        "Galleries of false negatives and false positives",
    } <= missing.keys()
    assert "--val" in missing["Calibration and operating points"]
    assert "--root" in missing["Galleries of false negatives and false positives"]


def test_no_figure_at_all_still_makes_a_report() -> None:
    table = make_table(patients=6, prevalence=0.0)
    data = ReportData(evaluate(table, replicates=REPLICATES), table)
    pictures = draw(data)
    assert not any("roc" in name or "recall" in name for name in pictures)
    document = make_document(data, pictures)
    assert list_missing(document)["Curves by slice"] if not pictures else True
    assert "No AUROC for any hemorrhage by study" in read_text(document)


def test_deck_is_ten_slides_with_the_same_story(full: ReportData, pictures: dict[str, Picture]) -> None:
    slides = make_deck(full, pictures).slides
    assert [slide.title for slide in slides] == STORY
    blocks = [[block for column in slide.columns for block in column] for slide in slides]
    assert all(blocks)
    assert not [block for each in blocks for block in each if isinstance(block, Missing)]
    shown = [[block.name for block in each if isinstance(block, Picture)] for each in blocks]
    assert shown[1:7] == [
        ["study_histograms"],
        ["study_roc"],
        ["study_confusion"],
        ["study_reliability"],
        ["subgroups_any"],
        ["false_negatives_1", "timelines"],
    ]


def test_deck_leaves_out_what_is_not_known(plain: ReportData) -> None:
    titles = [slide.title for slide in make_deck(plain, draw(plain)).slides]
    left = [title for title in STORY if title not in ("Operating points", "Subgroups")]
    assert titles == [
        title.replace("Comparison", "Comparison of the methods that pool slices") for title in left
    ]


def test_synthetic_and_leaky_data_are_said(plain: ReportData) -> None:
    data = replace(plain, run=Run(leaky=True, phantom=True))
    for document in (make_document(data, {}), make_model_card(data)):
        text = read_text(document)
        assert "synthetic" in text
        assert "without regard to patients" in text


def test_model_card_has_the_headings_of_mitchell(full: ReportData) -> None:
    card = make_model_card(full)
    assert [section.title for section in card.sections] == [
        "Verdict",
        "Model details",
        "Intended use",
        "Factors",
        "Metrics",
        "Evaluation data",
        "Training data",
        "Quantitative analyses",
        "Ethical considerations",
        "Caveats and recommendations",
    ]
    text = read_text(card)
    assert DISCLAIMER in text
    assert "| backbone | resnet18 |" in text
    assert "700 slices of 30 patients" in text
    assert f"{full.evaluation.levels['slice'].labels['any'].auroc:.3f}" in text
    assert "Consent and approval by an ethics committee: not available" in text


def test_claim_names_all_44_items(full: ReportData, plain: ReportData) -> None:
    rows = [row for table in list_tables(make_claim(full)) for row in table.rows]
    assert [row[0] for row in rows] == [str(number) for number in range(1, 45)]
    assert all(item and answer for _, item, answer in rows)
    answers = {item: answer for _, item, answer in rows}
    assert answers["How data were assigned to partitions"] == "split: by patient"
    assert answers["Clinical trial registration"] == NOT_AVAILABLE
    assert answers["Level at which partitions are disjoint"].endswith(": 50")  # both name patients P0 to P49
    assert DISCLAIMER in render_markdown(make_claim(full))
    bare = [row[2] for table in list_tables(make_claim(plain)) for row in table.rows]
    assert bare.count(NOT_AVAILABLE) > sum(answer == NOT_AVAILABLE for answer in answers.values())


def test_markdown_is_text() -> None:
    hostile = "<b>*x*</b> | [a](b) `c` # d\n- e"
    section = Section(hostile, [Text(hostile), Listing([hostile]), Table([hostile], [[hostile]], hostile)])
    text = render_markdown(Document(hostile, hostile, [section]))
    assert not re.search(r"(?<!\\)[<>*`\[\]]", text.replace(f"**{DISCLAIMER}**", ""))
    assert all(line.count("|") - line.count("\\|") == 2 for line in text.splitlines() if line.startswith("|"))
    assert not [line for line in text.splitlines() if line.startswith("- e")]


def test_run_is_read_without_its_places(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "model: {backbone: resnet18, pretrained: false, init_from: null, weights_file: null}\n"
        "data: {root: /data/SECRET, split: slice, val_fraction: 0.1, test_fraction: 0.2, seed: 3}\n"
        "input: {size: 64, neighbors: 1, windows: [brain, [80, 200]], normalization: unit}\nseed: nonsense\n"
    )
    (tmp_path / "split.csv").write_text("SOPInstanceUID,PatientID,part\n1,a,train\n2,a,train\n3,b,test\n")
    run = read_run(tmp_path)
    assert run.settings["backbone"] == "resnet18"
    assert run.settings["input"].startswith(
        "64 by 64 pixels, 3 slices, windows: brain, center 80, width 200 HU"
    )
    assert run.settings["start"] == "random"
    assert run.leaky
    assert not run.phantom
    assert run.parts == {"train": (2, 1), "test": (1, 1)}
    assert "SECRET" not in str(run)
    assert "seed" not in run.settings


@pytest.mark.parametrize("text", ["", "- a list", "key: [", "\x00"])
def test_a_run_that_is_none_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "split.csv").write_text(text)
    assert read_run(tmp_path) == Run()


def test_cases_are_drawn_with_and_without_heat() -> None:
    hu = np.full((40, 30), -1000, np.int16)
    heat = np.zeros((40, 30), np.float32)
    heat[4:8, 4:8] = 1
    cases = [
        Case("row 1", hu, heat),
        Case("row 2", hu, np.zeros((40, 30), np.float32)),
        Case("row 3", hu),
        Case("row 4", None, problem="cannot be read: missing"),
    ]
    png = encode_png(draw_cases(cases))
    assert png.startswith(b"\x89PNG")
    assert png != encode_png(draw_cases([replace(cases[0], heat=None), *cases[1:]]))
