"""What a recalibration on few studies gains: on labeled studies by many draws, and on simulated sites.

    python benchmarks/recalibration.py measure MODEL ROOT --labels CSV --out runs/recalibration
    python benchmarks/recalibration.py simulate

``measure`` predicts the studies of ROOT once, into OUT/predicted. Then it draws some of them many times, fits
to these and measures on the others. What it prints takes seconds once the studies are predicted.

``simulate`` needs no data. It compares priors and operating points on sites whose shift is like what was
published of hemorrhage models: specificity at a locked threshold of .86, .72 and .39, at AUROCs from .97 to
.90. The prior's strength was chosen there, so that no real study took part in the choice.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import expit, logit

from ich.calibration import Decision, NotFitted, Platt
from ich.calibration.fits import fit_shrunk_logistic
from ich.calibration.points import OperatingPoint, choose_expected_point, choose_operating_point
from ich.calibration.recalibration import INTERCEPT_SD, SLOPE_SD, recalibrate_label
from ich.evaluate.decisions import DEFAULT_RULE
from ich.evaluate.pooling import DEFAULT_POOLING
from ich.index.labels import read_any_labels
from ich.networks import load_members
from ich.predict import Predictor
from ich.predict.run import predict_folder
from ich.recalibrate.studies import SiteStudies, gather_studies, require_labels
from ich.schema import UserError
from ich.schema.labels import LabelSet

Floats = NDArray[np.float64]
BINS = 10
"""Bins of the expected calibration error, as in ``ich.evaluate``."""


def find_error(target: Floats, prob: Floats) -> float:
    """Expected calibration error over bins of equal width."""
    places = np.minimum((prob * BINS).astype(int), BINS - 1)
    return float(np.abs(np.bincount(places, weights=target - prob)).sum() / len(prob))


def find_rates(target: Floats, prob: Floats, threshold: float) -> tuple[float, float]:
    """Sensitivity and specificity at a threshold; NaN without one."""
    if np.isnan(threshold):
        return np.nan, np.nan
    called = prob >= threshold
    return float(called[target == 1].mean()), float((~called)[target == 0].mean())


@dataclass(frozen=True)
class Site:
    """Studies of a site, and the model's own calibrator and operating point.

    Attributes:
        target: (N,) 0 or 1.
        prob: (N,) probabilities of the model, pooled and not calibrated.
        patients: (N,) their patients.
        own: The model's own decision.
        label: The label.
    """

    target: Floats
    prob: Floats
    patients: NDArray[np.object_]
    own: Decision
    label: str

    @property
    def before(self) -> Floats:
        """(N,) probabilities as the model calibrates them."""
        calibrator = self.own.calibration[self.label]
        return self.prob if isinstance(calibrator, NotFitted) else calibrator.apply(self.prob)

    @property
    def threshold(self) -> float:
        """The model's own threshold; NaN without one."""
        point = self.own.find_point(self.label)
        return np.nan if point is None else point.threshold


def measure_draws(site: Site, studies: int, draws: int, seed: int) -> dict[str, Floats]:
    """Draws patients with about so many studies, fits to them, and measures on the others.

    A draw without both classes on both sides is drawn again.

    Args:
        site: The studies.
        studies: Number of studies to fit to.
        draws: Number of draws.
        seed: Random seed.

    Returns:
        For each figure its (draws,) values. ``error floor`` is the calibration error that probabilities
        without any error would have with as few studies: that of targets drawn from them.
    """
    rng = np.random.default_rng(seed)
    people = np.unique(site.patients)
    rows: list[dict[str, float]] = []
    tries = 0
    while len(rows) < draws:
        if (tries := tries + 1) > 100 * draws:
            raise UserError(f"--studies {studies}: hardly any draw has both classes on both sides")
        order = rng.permutation(people)
        sizes = np.cumsum([np.sum(site.patients == person) for person in order])
        fitted = np.isin(site.patients, order[: 1 + np.searchsorted(sizes, studies)])
        if any(len(np.unique(site.target[part])) < 2 for part in (fitted, ~fitted)):
            continue
        rows.append(_measure_draw(site, fitted, rng))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _measure_draw(site: Site, fitted: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, float]:
    fit = recalibrate_label(
        site.own.calibration[site.label],
        site.own.operating_points[site.label],
        site.target[fitted],
        site.prob[fitted],
        site.patients[fitted],
        rule=DEFAULT_RULE,
    )
    target, before, prob = site.target[~fitted], site.before[~fitted], site.prob[~fitted]
    after = prob if isinstance(fit.calibrator, NotFitted) else fit.calibrator.apply(prob)
    threshold = np.nan if isinstance(fit.point, NotFitted) else fit.point.threshold
    old, new = find_rates(target, before, site.threshold), find_rates(target, after, threshold)
    errors = find_error(target, before), find_error(target, after)
    drawn = (rng.random(len(after)) < after).astype(np.float64)
    return {
        "error before": errors[0],
        "error after": errors[1],
        "error after / before": errors[1] / errors[0],
        "error floor": find_error(drawn, after),
        "sensitivity before": old[0],
        "sensitivity after": new[0],
        "sensitivity after - before": new[0] - old[0],
        "specificity before": old[1],
        "specificity after": new[1],
        "specificity after - before": new[1] - old[1],
    }


def measure(args: argparse.Namespace) -> None:
    """Measures a model on labeled studies."""
    networks, ensemble = load_members(args.model, threads=args.threads, trusted=args.trusted)
    predictor = Predictor(networks, tta=args.tta, ensemble=ensemble)
    label_set = predictor.label_set
    label = args.label or label_set.decides or label_set.names[0]
    labels = read_any_labels(args.labels, label_set)
    results = list(predict_folder(predictor, [args.root], args.out / "predicted").results)
    if args.all:  # also those with a reason about their data, such as a gap
        results = [replace(result, reasons=()) for result in results]
    studies = gather_studies(results, networks[0], labels)
    require_labels(studies, label)
    site = make_site(studies, ensemble.joined.decisions or {}, label, label_set)
    figures = measure_draws(site, args.studies, args.draws, args.seed)
    tell(site, figures, args)
    if args.json is not None:
        args.json.write_text(json.dumps(summarize(site, figures, args), indent=2) + "\n", encoding="utf-8")


def make_site(
    studies: SiteStudies, decisions: Mapping[str, Decision], label: str, label_set: LabelSet
) -> Site:
    """Pools the studies as the model does."""
    none = dict.fromkeys(label_set.names, NotFitted("the model has none"))
    own = decisions.get("study") or Decision(DEFAULT_POOLING, none, none)
    units = studies.pool("study", own.pooling)
    units = units[units[f"target_{label}"].notna()]
    target, prob = (units[f"{kind}_{label}"].to_numpy(np.float64) for kind in ("target", "prob"))
    return Site(target, prob, units["PatientID"].to_numpy(), own, label)


def summarize(
    site: Site, figures: Mapping[str, Floats], args: argparse.Namespace
) -> dict[str, int | str | dict[str, list[float]]]:
    """Medians with their 95 % ranges over the draws, and what they are of."""
    known = {name: values[~np.isnan(values)] for name, values in figures.items()}
    return {
        "label": site.label,
        "studies": len(site.target),
        "positive": int(site.target.sum()),
        "drawn": args.studies,
        "draws": args.draws,
        "seed": args.seed,
        "figures": {
            name: [float(each) for each in np.percentile(values, [50, 2.5, 97.5])]
            for name, values in known.items()
            if len(values)
        },
    }


def tell(site: Site, figures: Mapping[str, Floats], args: argparse.Namespace) -> None:
    """Prints the table of ``measure``."""
    table = Table(
        "",
        "median",
        "95 % of draws",
        "draws",
        title=f"{site.label}: {len(site.target)} studies, {int(site.target.sum())} positive; fitted to "
        f"{args.studies}, measured on the others, {args.draws} times",
    )
    for name, values in figures.items():
        known = values[~np.isnan(values)]
        if len(known):
            median, low, high = np.percentile(known, [50, 2.5, 97.5])
            table.add_row(name, f"{median:.3f}", f"{low:.3f} to {high:.3f}", str(len(known)))
    Console().print(table)


# Simulated sites.

SOURCE_DISTANCE = 2.72
"""Distance of the classes at the source, in standard deviations: AUROC .973, and specificity .86 at
sensitivity .95."""

SOURCE_PREVALENCE = 0.4


@dataclass(frozen=True)
class World:
    """Kinds of sites: means and spreads of what differs from the source.

    Attributes:
        separation: Distance of the classes at the source.
        distance: Mean and standard deviation of the distance of the classes at sites.
        shift: Mean and standard deviation of the shift of all scores, in standard deviations of a class.
    """

    separation: float
    distance: tuple[float, float]
    shift: tuple[float, float]


WORLDS = {
    "published shifts": World(SOURCE_DISTANCE, (2.3, 0.4), (0.4, 0.5)),
    "trained on synthetic data": World(4.0, (1.25, 0.3), (0.5, 1.0)),
}


def simulate(args: argparse.Namespace) -> None:
    """Compares priors and operating points on simulated sites."""
    console = Console()
    for name, world in WORLDS.items():
        rng = np.random.default_rng(args.seed)
        sites = [_draw_site(world, rng) for _ in range(args.sites)]
        priors = Table(
            "prior sd of slope, intercept",
            *(f"{n} studies" for n in SIZES),
            title=f"{name}: mean log loss on new studies of {len(sites)} sites",
        )
        held = [site(400) for site in sites]
        samples = {n: [site(n) for site in sites] for n in SIZES}
        unchanged = np.mean([_lose(*each, (1.0, 0.0)) for each in held])
        priors.add_row("as it is", *[f"{unchanged:.3f}"] * len(SIZES))
        for slope_sd in SLOPE_SDS:
            for intercept_sd in INTERCEPT_SDS:
                losses = [
                    np.mean(
                        [
                            _lose(*new, _fit(*few, slope_sd, intercept_sd))
                            for few, new in zip(samples[n], held, strict=True)
                        ]
                    )
                    for n in SIZES
                ]
                priors.add_row(f"{slope_sd:g}, {intercept_sd:g}", *(f"{loss:.3f}" for loss in losses))
        console.print(priors)
        console.print(_compare_points(world, samples, held, name))


SIZES = (10, 20, 50)
SLOPE_SDS, INTERCEPT_SDS = (0.25, SLOPE_SD, 1.0, 100.0), (0.75, INTERCEPT_SD, 3.0, 100.0)
Sample = tuple[Floats, Floats]
"""(N,) targets and (N,) logits of the model's calibrated probabilities."""


def _draw_site(world: World, rng: np.random.Generator) -> Callable[[int], Sample]:
    """Returns a function that draws studies of one site.

    Scores of both classes are normal. The model's own calibration is right at the source, up to the error of
    a fit to few patients.
    """
    distance = max(0.5, rng.normal(*world.distance))
    shift, spread = rng.normal(*world.shift), np.exp(rng.normal(0, 0.2))
    prevalence = rng.uniform(0.15, 0.5)
    slope, intercept = np.exp(rng.normal(0, 0.2)), rng.normal(0, 0.4)

    def draw(n: int) -> Sample:
        while True:
            target = (rng.random(n) < prevalence).astype(np.float64)
            if 0 < target.sum() < n:
                break
        score = spread * (shift + (target - 0.5) * distance + rng.normal(size=n))
        x = slope * (world.separation * score + logit(SOURCE_PREVALENCE)) + intercept
        return target, x.clip(-16, 16)

    return draw


def _fit(target: Floats, x: Floats, slope_sd: float, intercept_sd: float) -> tuple[float, float]:
    return fit_shrunk_logistic(x, target, np.ones_like(x), slope_sd=slope_sd, intercept_sd=intercept_sd)


def _lose(target: Floats, x: Floats, curve: tuple[float, float]) -> float:
    logits = curve[0] * x + curve[1]
    return float(np.mean(np.logaddexp(0, logits) - target * logits))


def _compare_points(
    world: World, samples: Mapping[int, Sequence[Sample]], held: Sequence[Sample], name: str
) -> Table:
    """Compares ways to choose an operating point, by sensitivity and specificity on new studies."""
    table = Table(
        "operating point",
        *(f"{n} studies" for n in samples),
        title=f"{name}: sensitivity, specificity on new studies, where there is a point; rule {DEFAULT_RULE}",
    )
    own = float(expit(world.separation * (world.separation / 2 - 1.645) + logit(SOURCE_PREVALENCE)))
    ways: dict[str, Callable[[Floats, Floats], OperatingPoint | float | None]] = {
        "the model's own, on new probabilities": lambda _, __: own,
        "the rule on targets": lambda target, prob: choose_operating_point(target, prob, DEFAULT_RULE),
        "the rule on expected counts": lambda _, prob: choose_expected_point(
            prob, np.ones_like(prob), DEFAULT_RULE
        ),
    }
    unchanged = np.mean([find_rates(target, expit(x), own) for target, x in held], axis=0)
    table.add_row("nothing recalibrated", *["{:.3f}, {:.3f}".format(*unchanged)] * len(samples))
    for way, choose in ways.items():
        cells = []
        for few in samples.values():
            rates = []
            for (target, x), (new, z) in zip(few, held, strict=True):
                curve = _fit(target, x, SLOPE_SD, INTERCEPT_SD)
                if curve[0] <= 0:
                    continue
                site = Platt(*curve)
                point = choose(target, site.apply(expit(x)))
                threshold = point.threshold if isinstance(point, OperatingPoint) else point
                rates.append(
                    find_rates(new, site.apply(expit(z)), np.nan if threshold is None else threshold)
                )
            known = [rate for rate in rates if not np.isnan(rate[0])]
            cells.append("{:.3f}, {:.3f}".format(*np.mean(known, axis=0)) if known else "none")
        table.add_row(way, *cells)
    return table


def main() -> None:
    """Runs one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    real = commands.add_parser("measure", help="draws of labeled studies")
    real.add_argument("model", type=Path, help="a checkpoint, bundle or run's folder")
    real.add_argument("root", type=Path, help="folder of studies")
    real.add_argument("--labels", type=Path, required=True, help="labels of slices, studies or patients")
    real.add_argument("--out", type=Path, default=Path("runs/recalibration"), help="folder for the results")
    real.add_argument("--label", help="label to measure (default: the one that decides)")
    real.add_argument("--studies", type=int, default=20, help="studies to fit to (default: %(default)s)")
    real.add_argument("--draws", type=int, default=200, help="number of draws (default: %(default)s)")
    real.add_argument("--all", action="store_true", help="use studies with a reason about their data too")
    real.add_argument("--json", type=Path, help="also write the figures to this file")
    real.add_argument("--tta", nargs="*", help="test-time augmentation (default: what the model names)")
    real.add_argument("--threads", type=int, help="number of CPU threads")
    real.add_argument(
        "--trust", action="append", default=[], dest="trusted", help="code of your own backbone"
    )
    real.set_defaults(run=measure)
    made = commands.add_parser("simulate", help="priors and operating points on simulated sites")
    made.add_argument("--sites", type=int, default=200, help="number of sites (default: %(default)s)")
    made.set_defaults(run=simulate)
    for command in (real, made):
        command.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
