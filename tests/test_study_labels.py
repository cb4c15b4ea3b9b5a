"""Training on labels of studies: pooling, batches, joining, and runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import call
from drawings import label_studies

from ich.data import HeadCTDataModule
from ich.data.groups import Studies
from ich.evaluate.pooling import find_levels, pool
from ich.evaluate.stacking import fit_shares
from ich.image.augment import Augment
from ich.image.lesions import Lesions
from ich.index.joining import join_labels, join_study_labels
from ich.model_files.checkpoint import read_checkpoint
from ich.models import SliceClassifier, load_slice_net
from ich.models.study_pooling import GatedAttention, TopK, build_study_pool
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.labels import RSNA_LABELS
from ich.tables import SLAB_COLUMN, hides_slices, make_predictions, read_predictions, write_table
from ich.train.settings import leave_out_places

STUDY = torch.tensor([0, 0, 0, 1])
LOGITS = torch.tensor([[1.0, -1.0], [3.0, 0.0], [2.0, -5.0], [4.0, -2.0]])


def test_top_k_averages_the_highest_slices_of_each_label() -> None:
    features = torch.zeros(4, 2)
    assert TopK(2)(LOGITS, features, STUDY).tolist() == [[2.5, -0.5], [4.0, -2.0]]
    assert TopK(1)(LOGITS, features, STUDY).tolist() == [[3.0, 0.0], [4.0, -2.0]]
    logits = LOGITS.clone().requires_grad_()
    TopK(2)(logits, features, STUDY)[0, 0].backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].tolist() == [0.0, 0.5, 0.5, 0.0]


def test_attention_is_a_mean_of_logits_weighed_by_features() -> None:
    pool_study = GatedAttention(features=1, labels=2, width=1)
    for parameter in pool_study.parameters():
        torch.nn.init.zeros_(parameter)
    features = torch.tensor([[0.0], [9.0], [0.0], [0.0]])
    even = pool_study(LOGITS, features, STUDY)
    assert torch.allclose(even, torch.tensor([[2.0, -2.0], [4.0, -2.0]]))
    torch.nn.init.ones_(pool_study.signal.weight)  # tanh(9) = 1 for the second slice, gated by one half
    torch.nn.init.constant_(pool_study.score.weight, 2.0)
    weight = np.exp(1.0) / (np.exp(1.0) + 2)
    expected = weight * 3.0 + (1 - weight) / 2 * (1.0 + 2.0)
    assert pool_study(LOGITS, features, STUDY)[0, 0].item() == pytest.approx(expected, rel=1e-6)


def test_an_unknown_way_to_pool_is_refused() -> None:
    with pytest.raises(UserError, match=r"model.study_pool=max: expected one of top_k, attention"):
        build_study_pool("max", top=3, features=4, labels=6)
    with pytest.raises(UserError, match=r"model.study_top=0: expected 1 or more"):
        build_study_pool("top_k", top=0, features=4, labels=6)
    with pytest.raises(UserError, match=r"model.slice_weight=-1: expected 0 or more"):
        SliceClassifier("test_resnet", input=InputSpec(size=32), pretrained=False, slice_weight=-1)


def test_slices_of_a_study_are_evenly_spaced_and_move_with_the_epoch() -> None:
    study = np.repeat([0, 1, 2], [4, 40, 3])
    target = np.arange(47, dtype=np.float32)[:, None]
    rows = np.flatnonzero(study != 0)
    studies = Studies(rows, study, target, most=8, seed=5)
    assert studies.first.tolist() == [4, 44]
    assert studies.list_slices((0, 44, 0)) == [(0, 44, 0), (0, 45, 0), (0, 46, 0)]
    drawn = [[row for _, row, _ in studies.list_slices((epoch, 4, 0))] for epoch in range(20)]
    assert {len(each) for each in drawn} == {8}
    assert all(np.diff(each).tolist() == [5] * 7 for each in drawn)
    assert {each[0] for each in drawn} == {4, 5, 6, 7, 8}
    assert studies.list_slices((3, 4, 0)) == Studies(rows, study, target, 8, seed=5).list_slices((3, 4, 0))
    fixed = Studies(rows, study, target, most=8)
    assert [row for _, row, _ in fixed.list_slices((9, 4, 0))] == list(range(6, 46, 5))
    described = studies.describe([44, 46, 10])
    assert described["study"].tolist() == [1, 1, 0]
    assert described["study_target"].tolist() == [[10.0], [44.0]]


def make_index() -> pd.DataFrame:
    """Two patients: A with one study of two slices, B with two studies of one."""
    uids = {"StudyInstanceUID": ["a", "a", "b1", "b2"], "PatientID": ["A", "A", "B", "B"]}
    return pd.DataFrame({"SOPInstanceUID": list("wxyz"), **uids})


def make_labels(key: str, units: list[str], values: list[Any], column: str = "any") -> pd.DataFrame:
    index = pd.Index(units, name=key, dtype="str")
    table = pd.DataFrame(np.nan, index=index, columns=list(LABELS), dtype=np.float32)
    table[column] = np.array(values, np.float32)
    return table


def join(by_study: pd.DataFrame, slices: pd.DataFrame | None = None) -> pd.DataFrame:
    none = make_labels("SOPInstanceUID", [], [])
    table, _ = join_labels(make_index(), none if slices is None else slices)
    return join_study_labels(table, by_study)


def test_slices_of_negative_studies_are_negative_and_others_stay_unknown() -> None:
    table = join(make_labels("StudyInstanceUID", ["a", "b1", "gone"], [1, 0, 1]))
    assert table["any"].tolist() == pytest.approx([np.nan, np.nan, 0, np.nan], nan_ok=True)
    assert table["study_target_any"].tolist() == pytest.approx([1, 1, 0, np.nan], nan_ok=True)
    assert table[["subdural", "study_target_subdural"]].isna().all(axis=None)
    assert hides_slices(table, "")
    slices = make_labels("SOPInstanceUID", ["w", "x", "y"], [1, 0, 0])
    known = join(make_labels("PatientID", ["A"], [1]), slices)
    assert known["any"].tolist() == pytest.approx([1, 0, 0, np.nan], nan_ok=True)
    assert known["study_target_any"].tolist() == pytest.approx([1, 1, 0, np.nan], nan_ok=True)
    assert not hides_slices(known, "")


@pytest.mark.parametrize(
    ("units", "values", "slices", "message"),
    [
        (
            ["a", "b1"],
            [0, 0],
            [1, 0],
            "of 1 of 3 studies: for example, a is negative for any, but one",
        ),
        (["a"], [1], [0, 0], "a is positive for any, but all of its slices are negative; correct one"),
        (
            ["q"],
            [1],
            [0, 0],
            "none of 3 studies is among the 1 rows of the labels: check that",
        ),
    ],
)
def test_labels_that_contradict_or_miss_the_studies_are_refused(units, values, slices, message) -> None:
    with pytest.raises(UserError, match=message):
        join(
            make_labels("StudyInstanceUID", units, values), make_labels("SOPInstanceUID", ["w", "x"], slices)
        )


def test_labels_of_a_patient_with_several_studies_are_refused_without_a_name() -> None:
    with pytest.raises(UserError, match="1 patients have several studies: label the studies") as raised:
        join(make_labels("PatientID", ["A", "B"], [1, 0]))
    assert "B" not in str(raised.value)


def make_table() -> pd.DataFrame:
    """Predictions for the slices of ``make_index``, with a positive and a negative study."""
    rows = join(make_labels("StudyInstanceUID", ["a", "b1", "b2"], [1, 0, 0]))
    rows["SeriesInstanceUID"] = rows["StudyInstanceUID"]
    return make_predictions(rows, "test", np.tile([[0.1], [0.6], [0.3], [0.2]], 6))


def test_targets_of_studies_count_by_study_and_patient_and_lie_in_the_file(tmp_path: Path, caplog) -> None:
    table = make_table()
    write_table(table, tmp_path / "predictions.csv")
    read = read_predictions(tmp_path / "predictions.csv")
    pd.testing.assert_frame_equal(read[list(table)], table, check_dtype=False)
    assert pool(read, "slice")["target_any"].tolist() == pytest.approx([np.nan, np.nan, 0, 0], nan_ok=True)
    assert pool(read, "study")["target_any"].tolist() == [1, 0, 0]
    assert pool(read, "patient")["target_any"].tolist() == [1, 0]
    with caplog.at_level("INFO"):
        assert find_levels(read, "the test set") == ["study", "patient"]
    assert "no figures for the test set by slice: positive studies are labeled" in caplog.text
    with pytest.raises(UserError, match="stacking needs labels of slices"):
        fit_shares({"a": read, "b": read}, RSNA_LABELS)


@pytest.fixture(scope="module")
def studies(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label_studies(phantom, tmp_path_factory.mktemp("labels") / "studies.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"study_slices": 0}, "data.study_slices=0: expected 1 or more"),
        ({"split": "slice"}, "data.split=slice with data.study_labels"),
        ({"sampling": "balanced"}, r"data.sampling=balanced with data.study_labels: this draws or changes"),
        ({"label_smoothing": 0.1}, r"data.label_smoothing=0.1 with"),
        ({"lesions": Lesions()}, "lesions with"),
        ({"augment": Augment(mixup=0.5)}, r"augment.mixup and augment.cutmix with"),
    ],
)
def test_settings_that_change_single_slices_are_refused(
    studies: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        HeadCTDataModule("x", InputSpec(size=32), study_labels=str(studies), **settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty|holds no"),
        ("StudyInstanceUID,any\n", "holds no label"),
        ("SOPInstanceUID,any\nx,1\n", "expected StudyInstanceUID or PatientID with some of"),
    ],
)
def test_other_files_are_not_labels_of_studies(
    phantom: Path, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "labels.csv").write_text(text)
    data = HeadCTDataModule(
        str(phantom), InputSpec(size=32), study_labels=str(tmp_path / "labels.csv"), num_workers=0
    )
    with pytest.raises(UserError, match=message):
        data.setup()


def test_batches_hold_studies(phantom: Path, studies: Path) -> None:
    data = HeadCTDataModule(
        str(phantom),
        InputSpec(size=32),
        labels=str(phantom / "stage_2_train.csv"),
        study_labels=str(studies),
        study_slices=10,
        batch_size=32,
        num_workers=0,
    )
    data.setup()
    assert not data.hides_slices
    positive = data.part("train").drop_duplicates("StudyInstanceUID")["study_target_any"]
    assert data.prevalences(by_study=True)[-1] == pytest.approx(positive.mean())
    assert data.prevalences()[-1] < positive.mean()
    for batch in data.train_dataloader():
        assert batch["study_target"].shape == (3, 6)
        table = data.table.iloc[batch["row"].numpy()]
        assert batch["study"].bincount().max() == 10
        for name, column in zip(LABELS, batch["study_target"][batch["study"]].T, strict=True):
            assert table[f"study_target_{name}"].tolist() == column.tolist()
    seen = [batch["row"].tolist() for batch in data.val_dataloader()]
    assert len(seen) == data.part("val")["StudyInstanceUID"].nunique()
    assert max(map(len, seen)) <= 32


def test_loggers_do_not_get_the_name_of_the_file() -> None:
    settings = {"data": {"study_labels": "Doe.csv", "study_slices": 16}}
    assert leave_out_places(settings) == {"data": {"study_slices": 16}}


def test_averaged_slices_count_once(phantom: Path, studies: Path) -> None:
    data = HeadCTDataModule(
        str(phantom), InputSpec(size=32), study_labels=str(studies), thickness=15.0, num_workers=0
    )
    data.setup()
    slabs = data.table.groupby(["StudyInstanceUID", "stack", SLAB_COLUMN]).ngroups
    assert slabs == len(data.labeled) < len(data.table)
    assert data.labeled["study_target_any"].notna().all()


TINY = ["model.backbone=test_resnet", "model.pretrained=false", "trainer.max_epochs=1", "data.num_workers=0"]


@pytest.fixture(scope="module")
def run(phantom: Path, studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("by_study")
    named = pd.read_csv(studies).rename(columns={"StudyInstanceUID": "exam", "any": "ICH"})
    named.to_csv(folder / "named.csv", index=False, sep=";")
    data = ["data=rsna", f"data.root={phantom}", "data.study_labels=named.csv", "input.size=32"]
    data.append("data.columns={StudyInstanceUID: Exam, any: ICH}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert call("train", *data, *TINY, "model.study_pool=attention", "logger=csv", "run_dir=run") == 0
        assert call("train", *data, *TINY, "series=gru", "run_dir=other") == 2
        assert not (folder / "other").exists()
    return folder / "run"


@pytest.mark.trains
def test_a_run_is_evaluated_by_study(run: Path, studies: Path) -> None:
    known = pd.read_csv(studies).set_index("StudyInstanceUID")
    table = read_predictions(run / "predictions_test.csv")
    expected = known.loc[table["StudyInstanceUID"], "any"].to_numpy()
    assert (table["study_target_any"].to_numpy() == expected).all()
    assert table.loc[expected == 1, "target_any"].isna().all()
    assert (table.loc[expected == 0, "target_any"] == 0).all()
    report = json.loads((run / "metrics.json").read_text())
    assert list(report["test"]["levels"]) == ["study", "patient"]
    assert report["test"]["levels"]["study"]["labels"]["any"]["counts"]["units"] == len(
        table["StudyInstanceUID"].unique()
    )
    card = (run / "model_card.md").read_text()
    assert "of studies, pooled by attention" in card
    assert "There are no figures by slice" in card


@pytest.mark.trains
def test_a_model_file_holds_a_network_for_slices(
    run: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    best = run / "checkpoints/best.ckpt"
    net = load_slice_net(best)
    assert any(name.startswith("study_pool.") for name in read_checkpoint(best)["state_dict"])
    assert {level: each.pooling for level, each in (net.metadata.decisions or {}).items()} == {
        "study": "top3_mean"
    }
    assert set((net.metadata.prevalences or {}).values()) == {None}
    tuned = SliceClassifier("test_resnet", input=InputSpec(size=32), init_from=str(best))
    assert torch.equal(tuned.net.get_parameter("head.1.weight"), net.get_parameter("head.1.weight"))
    assert call("bundle", str(run), str(tmp_path / "model.zip")) == 0
    assert call("predict", str(tmp_path / "model.zip"), str(phantom), "--out", str(tmp_path / "out")) == 0
    assert call("evaluate", str(run), "--out", str(tmp_path / "evaluation"), "--replicates", "20") == 0
    assert "studies of" in capsys.readouterr().out
