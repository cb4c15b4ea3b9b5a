"""Labels of a user's own, from the label file to the outputs, through the real entry points."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from command import call

from ich.index import read_labels
from ich.model_files.bundle import read_bundle
from ich.model_files.checkpoint import read_checkpoint
from ich.model_files.metadata import ModelArguments, ModelMetadata, read_metadata
from ich.models import SliceNet, load_slice_net
from ich.networks import Output
from ich.outputs.records import read_json
from ich.predict import Predictor
from ich.schema import LABELS, InputSpec, UserError
from ich.schema.formats import to_plain
from ich.schema.labels import RSNA_LABELS, LabelSet
from ich.schema.results import Outcome
from ich.tables import read_predictions

TINY = [
    *("input.size=32", "model.backbone=test_resnet", "model.pretrained=false", "trainer.gpus=0"),
    *("data.num_workers=0", "data.batch_size=48", "trainer.max_epochs=1", "logger=csv", "augment=none"),
]
EIGHT = (*(f"sign_{letter}" for letter in "abcdefg"), "subdural")
OWN = LabelSet(("fracture", "bleed"), (1, 2), decides="bleed")


def write_own(phantom: Path, path: Path, names: Sequence[str]) -> Path:
    """Makes a label file of the phantom's own: the last label is any hemorrhage, the others are subtypes."""
    rsna = read_labels(phantom / "stage_2_train.csv")
    columns = {name: rsna[LABELS[number % 5]] for number, name in enumerate(names[:-1])}
    pd.DataFrame(columns | {names[-1]: rsna["any"]})[list(names)].reset_index().to_csv(path, index=False)
    return path


def train(phantom: Path, names: Sequence[str], *more: str) -> int:
    csv = write_own(phantom, Path("own.csv"), names)
    labels = [f"labels.names=[{','.join(names)}]", f"labels.weights={list(range(1, len(names) + 1))}"]
    given = ["data=rsna", f"data.root={phantom}", f"data.labels={csv}", "labels=own", *labels, *TINY]
    return call("train", *given, *more)


def read_text(ds: pydicom.Dataset) -> list[str]:
    """All texts and meanings of codes in a structured report."""
    found = [str(ds.TextValue)] if "TextValue" in ds else []
    for keyword in ("ConceptNameCodeSequence", "ConceptCodeSequence"):
        found += [item.CodeMeaning for item in ds.get(keyword, [])]
    return found + [text for item in ds.get("ContentSequence", []) for text in read_text(item)]


@pytest.fixture(scope="module")
def folder(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on two own labels, which was interrupted and went on."""
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        more = ("labels.decides=bleed", "run_dir=run", "data.val_fraction=0.3")
        assert train(phantom, OWN.names, *more) == 0
        assert call("train", "ckpt_path=run", "trainer.max_epochs=2") == 0
        assert call("bundle", "run", "model.zip") == 0
    return folder


@pytest.mark.trains
def test_a_run_with_own_labels_resumes_and_names_them_in_its_files(folder: Path) -> None:
    assert len(pd.read_csv(folder / "run/metrics.csv")) == 2
    assert "val_auroc_fracture" in pd.read_csv(folder / "run/metrics.csv")
    metadata = read_checkpoint(folder / "run/checkpoints/best.ckpt")["metadata"]
    assert metadata.labels == read_bundle(folder / "model.zip").metadata.labels == OWN
    assert list(metadata.prevalences) == list(metadata.training.positives) == list(OWN.names)
    assert load_slice_net(folder / "model.zip").head[1].out_features == 2
    predictions = read_predictions(folder / "run/predictions_test.csv")
    assert [column for column in predictions if column.startswith("prob_")] == ["prob_fracture", "prob_bleed"]
    figures = json.loads((folder / "run/metrics.json").read_text())["test"]["levels"]["slice"]
    assert list(figures["labels"]) == list(OWN.names)
    target, prob = (predictions[[f"{kind}_{n}" for n in OWN.names]].to_numpy() for kind in ("target", "prob"))
    prob = prob.clip(1e-15, 1 - 1e-15)
    losses = -np.log(np.where(target == 1, prob, 1 - prob)).mean(axis=0)
    assert figures["weighted_log_loss"]["value"] == pytest.approx(losses @ [1, 2] / 3, rel=1e-6)
    assert "bleed, fracture in head CT" in (folder / "run/model_card.md").read_text().splitlines()[0]


@pytest.mark.trains
def test_predictions_of_own_labels_are_evaluated(folder: Path, phantom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("--root", str(phantom), "--checkpoint", str(folder / "model.zip"), "--replicates", "20")
    assert call("evaluate", str(folder / "run"), *given, "--out", str(out)) == 0
    report = (out / "report.html").read_text(encoding="utf-8")
    assert "Detecting bleed, fracture in head CT" in report
    assert "any hemorrhage" not in report
    # A table alone does not say which label decides, or how labels weigh.
    table = tmp_path / "table.csv"
    table.write_bytes((folder / "run/predictions_test.csv").read_bytes())
    labels = ("--labels", str(folder / "own.csv"), "--replicates", "20")
    assert call("evaluate", str(table), *labels, "--out", str(out)) == 0
    assert list(json.loads((out / "metrics.json").read_text())["levels"]["slice"]["labels"]) == [
        "fracture",
        "bleed",
    ]


@pytest.mark.trains
def test_a_submission_refuses_own_labels(
    folder: Path, phantom: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample = str(phantom / "stage_2_train.csv")
    given = ("--submission", sample, "--out", str(tmp_path / "out"))
    assert call("evaluate", str(folder / "run/predictions_test.csv"), *given) == 2
    assert "a submission needs the six labels of the RSNA 2019 challenge" in capsys.readouterr().err


@pytest.mark.trains
def test_studies_are_read_by_own_labels(folder: Path, department: Path, tmp_path: Path) -> None:
    study, out = sorted(department.iterdir())[0], tmp_path / "out"
    given = ("--out", str(out), "--write", "page", "sr", "sc")
    assert call("predict", str(folder / "model.zip"), str(study), *given) == 0
    result = read_json(out / "results/0001.json")
    assert (list(result.labels), result.decides) == (["fracture", "bleed"], "bleed")
    studies, slices = (pd.read_csv(out / f"{name}.csv") for name in ("studies", "slices"))
    assert {"prob_fracture", "positive_bleed", "threshold_bleed"} < set(studies)
    assert {"prob_bleed", "calibrated_fracture"} < set(slices)
    page = (out / "pages/0001.html").read_text(encoding="utf-8")
    assert "probability of bleed" in page
    assert "any hemorrhage" not in page
    refused = pd.read_csv(out / "refused_outputs.csv")
    assert refused[["output", "code"]].to_numpy().tolist() == [["sr", "no_code"]]
    assert refused["detail"][0] == "there is no code for fracture, bleed"
    explained = tmp_path / "explained"
    given = ("--label", "fracture", "--limit", "1", "--out", str(explained))
    assert call("explain", str(folder / "model.zip"), str(study), *given) == 0
    assert len(list(explained.glob("*_fracture.png"))) == 1


@pytest.mark.trains
def test_a_network_of_own_labels_is_exported(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    assert call("export", str(folder / "model.zip"), str(tmp_path / "model.onnx")) == 0
    (network,) = Predictor.load(tmp_path / "model.onnx").networks
    assert network.metadata.labels == OWN


@pytest.mark.trains
@pytest.mark.parametrize(
    ("names", "more"), [(("bleed",), ("labels.decides=bleed",)), (EIGHT, ("data.sampling=balanced",))]
)
def test_one_label_and_eight_are_trained_and_read(
    phantom: Path,
    department: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: tuple[str, ...],
    more: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(phantom, names, *more, "run_dir=run") == 0
    study = sorted(department.iterdir())[0]
    assert call("predict", "run", str(study), "--out", "out", "--write", "page", "sr") == 0
    result = read_json("out/results/0001.json")
    assert tuple(result.labels) == names
    assert call("evaluate", "run", "--replicates", "20", "--out", "evaluated") == 0
    if len(names) == 8:  # none of them decides
        assert (result.outcome, result.decides) == (Outcome.INDETERMINATE, None)
        assert "no_decision" in {str(reason.code) for reason in result.reasons}
        page = Path("out/pages/0001.html").read_text(encoding="utf-8")
        assert "labels decides, so there is no reliable result" in page
        texts = read_text(pydicom.dcmread("out/dicom/0001/report.dcm"))
        assert {f"Left out, as it has no code: {name}" for name in EIGHT[:-1]} < set(texts)
        assert "Subdural intracranial hemorrhage" in texts
        assert "threshold" not in " ".join(pd.read_csv("out/studies.csv"))


@pytest.mark.trains
def test_a_run_on_own_labels_starts_from_a_model_of_others(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    net = SliceNet(
        "test_resnet",
        input=InputSpec(size=32),
        drop_rate=0.0,
        drop_path_rate=0.0,
        link="sigmoid",
        channels_last=True,
    )
    torch.save({"metadata": net.metadata.to_plain(), "state_dict": net.state_dict()}, "rsna.ckpt")
    assert train(phantom, ("bleed",), "model.init_from=rsna.ckpt", "run_dir=run") == 0
    assert load_slice_net("run/checkpoints/best.ckpt").metadata.labels.names == ("bleed",)


@pytest.mark.trains
def test_a_pretraining_has_the_labels_of_its_phantom(
    phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = [f"pretrain.data.root={phantom}", "pretrain.data.phantom=null", "pretrain.trainer.max_epochs=1"]
    more = ("pretrain=phantom", *first, "pretrain.data.batch_size=48", "run_dir=run")
    assert train(phantom, ("bleed",), *more) == 0
    labels = [
        load_slice_net(f"{run}/checkpoints/best.ckpt").metadata.labels for run in ("run/pretrain", "run")
    ]
    assert labels == [RSNA_LABELS, LabelSet(("bleed",), (1,))]


class Finds:
    """Gives the last of its labels 0.95 in every slice, and the others 0.05."""

    name, sha256, limit, input = "finds", "c0ffee" + "0" * 58, 1.0, InputSpec(size=64)

    def __init__(self, labels: LabelSet) -> None:
        model = ModelArguments("finds", self.input, 0.0, 0.0, "sigmoid", True)
        self.metadata = ModelMetadata(model, labels=labels)

    def run(self, hu: np.ndarray, window: np.ndarray | None = None, positions: object = None) -> Output:
        probs = np.full((len(hu), len(self.metadata.labels.names)), 0.05, np.float32)
        probs[:, -1] = 0.95
        return Output(probs, np.zeros(len(hu), np.float32))


def test_models_of_different_labels_do_not_form_an_ensemble() -> None:
    with pytest.raises(UserError, match="the models predict different labels, fracture, bleed and epidural"):
        Predictor([Finds(OWN), Finds(RSNA_LABELS)])


def test_metadata_of_older_files_have_the_labels_of_the_rsna() -> None:
    metadata = Finds(RSNA_LABELS).metadata
    older = metadata.to_plain() | {"format": "ich slice classifier 1", "labels": list(LABELS)}
    assert read_metadata(older, "old.ckpt") == metadata
    older = metadata.to_plain() | {"format": "ich slice classifier 1", "labels": ["any"]}
    with pytest.raises(UserError, match=r"old.ckpt: labels is \['any'\]; expected fields"):
        read_metadata(older, "old.ckpt")
    assert read_metadata(to_plain(Finds(OWN).metadata), "new.ckpt").labels == OWN
    older = to_plain(Finds(OWN).metadata) | {"format": "ich slice classifier 2"}
    assert read_metadata(older, "old.ckpt") == Finds(OWN).metadata
