"""Labels of a user's own, in the parts that hold no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import call

from ich.index import build_index, list_labels, read_labels
from ich.index.joining import join_labels
from ich.models.losses import WeightedBCE
from ich.models.metrics import build_metrics, weighted_log_loss
from ich.schema import LABEL_WEIGHTS, LABELS, SUBTYPES, UserError
from ich.schema.labels import RSNA_LABELS, LabelSet, require_rsna
from ich.tables import UIDS, find_names, make_predictions, read_predictions, write_table

OWN = LabelSet(("fracture", "bleed"), (1, 2), decides="bleed")


def write(folder: Path, *rows: str) -> Path:
    path = folder / "own.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_default_is_the_rsna() -> None:
    assert (RSNA_LABELS.names, RSNA_LABELS.weights) == (LABELS, LABEL_WEIGHTS)
    assert RSNA_LABELS.subtypes == RSNA_LABELS.averaged == SUBTYPES
    assert RSNA_LABELS.shown == ("any", *SUBTYPES)
    assert (OWN.subtypes, OWN.shown, OWN.headline) == (("fracture",), ("bleed", "fracture"), "bleed")
    alone = LabelSet(("bleed",), (1,), decides="bleed")
    assert (alone.subtypes, alone.averaged) == ((), ("bleed",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"names": ()}, r"labels.names=\(\): expected a list of 1 to 64"),
        ({"names": "bleed"}, "labels.names=bleed: expected a list"),
        ({"names": ("Bleed", "x")}, "labels.names holds 'Bleed': expected a lowercase letter"),
        ({"names": ("mean", "x")}, "labels.names holds 'mean': expected .* none of [a-z_, ]*id, label, mean"),
        ({"names": ("a", "a")}, "holds a name twice"),
        ({"names": LABELS[::-1]}, "holds the RSNA's labels in another order than its files"),
        (
            {"weights": (1,)},
            r"labels.weights=\[1\]: expected 2 numbers above 0, one for each of fracture, bleed",
        ),
        ({"weights": (1, 0)}, "numbers above 0"),
        ({"decides": "any"}, "labels.decides=any: expected one of fracture, bleed, or null"),
        ({"union": "any"}, "labels.union=any: expected one of fracture, bleed, or null; labels=own"),
    ],
)
def test_other_label_sets_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LabelSet(**{"names": OWN.names, "weights": OWN.weights, "decides": None, "union": None} | given)


def test_own_columns_are_read_in_any_case_and_contradict_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, "SOPInstanceUID;Bleed;age; FRACTURE", "a;0;50;1", "b;1;60;0", "c;;70;1")
    assert list_labels(tmp_path, OWN) == [path]
    assert list_labels(tmp_path) == []
    labels = read_labels(path, OWN)
    assert list(labels) == ["fracture", "bleed"]
    np.testing.assert_array_equal(labels.to_numpy(), [[1, 0], [0, 1], [1, np.nan]])
    with pytest.raises(UserError, match="a label bleed that is not the largest"):
        read_labels(path, LabelSet(OWN.names, OWN.weights, union="bleed"))


def test_ids_end_in_the_longest_label_that_fits(tmp_path: Path) -> None:
    path = write(tmp_path, "ID,Label", "a_bleed,1", "a_old_bleed,0", "b_OLD_BLEED,1")
    labels = read_labels(path, LabelSet(("bleed", "old_bleed"), (1, 1)))
    np.testing.assert_array_equal(labels.loc[["a", "b"]].to_numpy(), [[1, 0], [np.nan, 1]])
    with pytest.raises(UserError, match=r"'bleed' is not a label; nearest is \w+, of fracture"):
        read_labels(path, LabelSet(("fracture",), (1,)))


def test_a_label_called_as_a_column_of_the_index_is_refused(phantom: Path, tmp_path: Path) -> None:
    table = build_index(phantom).table
    labels = read_labels(
        write(tmp_path, "SOPInstanceUID,tilt", f"{table['SOPInstanceUID'][0]},1"),
        LabelSet(("tilt",), (1,)),
    )
    with pytest.raises(UserError, match=r"labels.names holds tilt, a column of the index"):
        join_labels(table, labels)


def test_predictions_say_their_labels_by_their_columns(tmp_path: Path) -> None:
    rows = pd.DataFrame({column: ["1", "2"] for column in UIDS}).assign(fracture=[0.0, 1.0], bleed=np.nan)
    table = make_predictions(rows, "test", np.full((2, 2), 0.25), names=OWN.names)
    write_table(table, tmp_path / "p.csv")
    read = read_predictions(tmp_path / "p.csv")
    pd.testing.assert_frame_equal(read, table, check_dtype=False)
    assert find_names(read) == OWN.names
    write_table(table.drop(columns="prob_bleed"), tmp_path / "p.csv")
    with pytest.raises(UserError, match="lacks the columns prob_bleed; it has"):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.parametrize("names", [("bleed",), OWN.names, tuple("abcdefgh")])
def test_metrics_and_losses_take_as_many_labels_as_there_are(names: tuple[str, ...]) -> None:
    labels = LabelSet(names, tuple(range(1, len(names) + 1)), names[0])
    target = torch.eye(len(names)).repeat(4, 1)[: 4 * len(names) - 1]
    metrics = build_metrics("val_", labels)
    metrics.update(probs := 0.2 + 0.5 * target, target)
    found = metrics.compute()
    assert {f"val_auroc_{name}" for name in (*names, "mean")} < found.keys()
    loss = WeightedBCE(labels.weights)(probs.logit(), target)
    assert found["val_weighted_log_loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_the_metric_of_the_rsna_refuses_other_labels_by_one_message() -> None:
    with pytest.raises(UserError, match=r"6 label_weights for 1 labels: the metric of the RSNA 2019 .* six"):
        weighted_log_loss(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(UserError, match=r"loss.label_weights has 6 weights for 1 labels: give one for each"):
        WeightedBCE()(torch.zeros(2, 1), torch.zeros(2, 1))
    with pytest.raises(UserError, match=r"--submission needs the six labels .*any\); found fracture, bleed$"):
        require_rsna(OWN.names, "--submission")


@pytest.mark.parametrize("names", [OWN.names, ("bleed",)])
def test_a_data_set_is_explored_by_own_labels(phantom: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    rsna = read_labels(phantom / "stage_2_train.csv")
    own = pd.DataFrame({"fracture": rsna["epidural"], "bleed": rsna["any"]})[list(names)].reset_index()
    own.to_csv(tmp_path / "own.csv", index=False)
    given = ["--labels", str(tmp_path / "own.csv"), "--names", *names, "--slices", "20"]
    assert call("explore", str(phantom), *given, "--out", str(tmp_path / "out")) == 0
    page = (tmp_path / "out/explore.html").read_text(encoding="utf-8")
    assert all(name in page for name in names)
    assert "subdural</td>" not in page
    assert (tmp_path / "out/together_slice.png").is_file()
