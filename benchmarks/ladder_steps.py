"""The steps of the ladder on CT-ICH; see `ladder.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """A step of the ladder.

    Attributes:
        text: What it is, for the table.
        base: The step that it is compared with.
        overrides: Settings of `train.py` beside those of the base; none for a mean of steps.
        members: Steps whose mean it is.
        script: Script that trains it, in place of `train.py`.
        start: Step whose pretraining it uses, if not its own.
        smooths: Step whose probabilities are smoothed over neighboring slices, each fold as the others say.
    """

    text: str
    base: str | None = None
    overrides: tuple[str, ...] = ()
    members: tuple[str, ...] = ()
    script: str | None = None
    start: str | None = None
    smooths: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Steps whose predictions it changes, without a training of its own."""
        return self.members or ((self.smooths,) if self.smooths else ())


def list_trained(name: str) -> tuple[str, ...]:
    """Lists the trained steps whose predictions a step is made of, often only itself."""
    return tuple(each for part in STEPS[name].parts for each in list_trained(part)) or (name,)


SETTINGS = (
    *("input=neighbors", "input.size=128", "augment=strong", "pretrain=phantom", "smoothing=false"),
    *("optim.lr=5e-4", "trainer.max_epochs=8", "trainer.ema_decay=0.98"),
)
RECIPE = (*SETTINGS, "model.pretrained=false", "model.drop_rate=0.3")
LITE0 = (*SETTINGS, "model=efficientnet_lite0", "model.pretrained=true", "model.drop_rate=0.3")
BOTH = "both"


def change(text: str, *overrides: str) -> Step:
    """Returns a step that changes one thing of the start from ImageNet and the phantom."""
    return Step(text, BOTH, (*LITE0, *overrides), start=BOTH)


STEPS = {
    "timm": Step("`efficientnet_lite0` from ImageNet by timm's own steps", script="plain_timm.py"),
    "recipe": Step("`regnetx_002` from the phantom: the recipe until now", None, RECIPE),
    "imagenet": Step("`efficientnet_lite0` from ImageNet", "timm", (*LITE0, "pretrain=none")),
    BOTH: Step("from ImageNet, then the phantom", "imagenet", (*LITE0, "pretrain.trainer.max_epochs=5")),
    "symmetric": Step(
        "from ImageNet, images in [-1, 1]",
        "imagenet",
        (*LITE0, "pretrain=none", "input.normalization=symmetric"),
    ),
    "brain_crop": Step(
        "a square around the brain", "imagenet", (*LITE0, "pretrain=none", "input.brain=crop")
    ),
    "aligned": change("HU shifted to one value of the brain", "input.brain_hu=35"),
    "imagenet_aligned": Step(
        "from ImageNet, HU shifted to one value of the brain",
        "imagenet",
        (*LITE0, "pretrain=none", "input.brain_hu=35"),
    ),
    "lesions": change("painted hemorrhages", "lesions=drawn"),
    "few_lesions": change(
        "painted hemorrhages in 10 % of slices", "lesions=drawn", "lesions.probability=0.1"
    ),
    "robust": change("random windows, HU off by 10 % and 20 HU", "augment=robust"),
    "mixup": change("mixup", "augment.mixup=0.3"),
    "cutmix": change("CutMix", "augment.cutmix=0.3"),
    "label_smoothing": change("smoothed targets", "data.label_smoothing=0.05"),
    "layer_decay": change("lower learning rates in lower layers", "optim.layer_decay=0.8"),
    "drop_path": change("more stochastic depth", "model.drop_path_rate=0.3"),
    "balanced": change("more slices with rare subtypes", "data.sampling=balanced"),
    "first_sizes": change("smaller images first", "data.first_sizes=[96,96,112,112]"),
    "longer": change("16 epochs", "trainer.max_epochs=16"),
    "size_192": change("192 px", "input.size=192"),
    "gru": change("a network over the series", "series=gru"),
    "lite2": Step("`efficientnet_lite2`", BOTH, (*LITE0, "model=efficientnet_lite2", "model.drop_rate=0.3")),
    "smoothed": Step("smoothed over neighbors", BOTH, smooths=BOTH),
    "aligned_smoothed": Step("the same, smoothed over neighbors", "aligned", smooths="aligned"),
    "mean": Step("mean of `imagenet` and `both`", BOTH, members=("imagenet", BOTH)),
    "mean_smoothed": Step("the mean, smoothed over neighbors", "mean", smooths="mean"),
    "aligned_mean": Step(
        "mean of `imagenet_aligned` and `aligned`", "mean", members=("imagenet_aligned", "aligned")
    ),
    "aligned_mean_smoothed": Step(
        "the same, smoothed over neighbors: `experiment=ct_ich`", "aligned_mean", smooths="aligned_mean"
    ),
}
