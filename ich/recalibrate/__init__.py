"""Recalibrates a model for a site, on results of its studies and on their labels.

studies  results of ``ich predict`` and labels of the site -> the studies that are used
change   figures before and after, each study by a fit without its patient
report   the figures as a page and as a picture

``write_recalibrated`` does all of it. The fits themselves are in ``ich.calibration.recalibration``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ich.calibration import DECIDED_LEVELS, Decision, NotFitted
from ich.calibration.recalibration import SiteFit, recalibrate_decision
from ich.evaluate.decisions import DEFAULT_RULE
from ich.evaluate.pooling import DEFAULT_POOLING
from ich.files import for_owner_only
from ich.model_files.bundle import write_ensemble
from ich.model_files.metadata import ModelMetadata, Recalibration
from ich.networks import Members, Network, TorchNetwork
from ich.progress import waiting
from ich.recalibrate.change import Change, measure_change
from ich.recalibrate.report import write_report
from ich.recalibrate.studies import SiteStudies, gather_studies, require_labels
from ich.schema import UserError
from ich.schema.results import StudyResult
from ich.tables import name_columns

__all__ = ["Recalibrated", "require_recalibrable", "write_recalibrated"]

MODEL = "model.zip"
"""Name of the new bundle in the folder."""


@dataclass(frozen=True)
class Recalibrated:
    """What was done.

    Attributes:
        metadata: Metadata of the new bundle.
        studies: The studies that were used, and counts of the others.
        headline: The label that the model decides by, or its first.
        fits: The fit of each label, by level.
        changes: Figures before and after of each label that was fitted, by level.
    """

    metadata: ModelMetadata
    studies: SiteStudies
    headline: str
    fits: Mapping[str, Mapping[str, SiteFit]]
    changes: Mapping[str, Mapping[str, Change]]


def require_recalibrable(networks: Sequence[Network]) -> list[TorchNetwork]:
    """Returns the networks of a model that can be recalibrated into a new bundle.

    Raises:
        UserError: If it is an ONNX file, or was recalibrated already.
    """
    found = [network for network in networks if isinstance(network, TorchNetwork)]
    if not found:
        raise UserError(
            "the model is an ONNX file, which is not rewritten: recalibrate the checkpoint or bundle that it "
            "was exported from, and export the new bundle"
        )
    if (earlier := found[0].metadata.recalibration) is not None:
        where = f" at {earlier.site}" if earlier.site else ""
        raise UserError(
            f"the model was recalibrated already{where}: give the file that this was done with, and all "
            "studies, because the same study must not count twice"
        )
    return found


def write_recalibrated(
    model: Members,
    results: Sequence[StudyResult],
    labels: pd.DataFrame,
    out: str | Path,
    *,
    site: str = "",
    seed: int = 0,
) -> Recalibrated:
    """Fits calibration and operating points to the studies of a site, and writes a new bundle and a report.

    An ensemble is recalibrated by the mean of its members. If each of them has decisions of its own, there
    are none for the mean, so the fit starts from its probabilities as they are.

    Args:
        model: A checkpoint or bundle, from ``load_members``.
        results: Results of ``ich predict`` by the same file.
        labels: Labels of studies or patients from ``ich.index.read_study_labels``, or of slices from
            ``ich.index.read_labels``. Slices are recalibrated only with labels of slices.
        out: Folder for ``model.zip``, ``report.html`` and ``reliability.png``.
        site: Name of the site, for the metadata.
        seed: Random seed for the bootstrap.

    Raises:
        UserError: If the model cannot be recalibrated, the results are those of another model, too few
            studies have labels, all have the same, the labels contradict the model, or ``out`` has a bundle
            or cannot be written to.
    """
    networks, out = require_recalibrable(model.networks), Path(out)
    _check_site(site)
    before = model.metadata.joined
    names = before.labels.names
    headline = before.labels.decides or names[0]
    studies = gather_studies(results, networks[0], labels)
    require_labels(studies, headline)
    with waiting("Fitting"):
        decisions, fits, changes = _fit(before, studies, seed)
    if (fit := fits["study"][headline]).site is None:
        raise UserError(f"{headline} cannot be recalibrated: {fit.kept}. Check the labels")
    positives = (studies.targets == 1).sum()
    recalibration = Recalibration(
        site=site,
        studies=len(studies.targets),
        patients=studies.slices["PatientID"].nunique(),
        positives={name: int(positives[f"target_{name}"]) for name in names},
    )
    tta = results[0].algorithm.tta or None
    members = [replace(each, tta=tta, recalibration=recalibration) for each in model.metadata.members]
    metadata = replace(model.metadata, members=tuple(members)).with_decisions(decisions)
    try:
        with for_owner_only():
            out.mkdir(parents=True, exist_ok=True)
            write_ensemble(metadata, [network.net.state_dict() for network in networks], out / MODEL)
            write_report(site, studies, headline, fits, changes, out)
    except OSError as error:
        raise UserError(f"cannot write to {out}: {error.strerror or error}") from error
    return Recalibrated(metadata.joined, studies, headline, fits, changes)


def _fit(
    metadata: ModelMetadata, studies: SiteStudies, seed: int
) -> tuple[dict[str, Decision], dict[str, dict[str, SiteFit]], dict[str, dict[str, Change]]]:
    """Fits both levels; a level without any label that can be fitted keeps the model's own decision."""
    names, given = metadata.labels.names, metadata.decisions or {}
    none = dict.fromkeys(names, NotFitted("the model has none"))
    decisions = dict(given)
    fits: dict[str, dict[str, SiteFit]] = {}
    changes: dict[str, dict[str, Change]] = {}
    for level in DECIDED_LEVELS:
        own = given.get(level) or Decision(DEFAULT_POOLING, none, none)
        units = studies.pool(level, own.pooling)
        target, probs = (units[name_columns(kind, names)] for kind in ("target", "prob"))
        new, fits[level] = recalibrate_decision(own, target, probs, units["PatientID"], rule=DEFAULT_RULE)
        fitted = [label for label, fit in fits[level].items() if fit.site is not None]
        if fitted:
            decisions[level] = new
        changes[level] = {
            label: measure_change(own, new, label, units, rule=DEFAULT_RULE, level=level, seed=seed)
            for label in fitted
        }
    return decisions, fits, changes


def _check_site(site: str) -> None:
    if len(site) > 200 or not site.isprintable():
        raise UserError(f"site={site[:40]!r}...: expected a text on one line of at most 200 characters")
