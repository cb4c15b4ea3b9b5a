"""Whether a model looks at the hemorrhage: heat maps on the phantom, which has a mask of every lesion.

It takes held-out slices that have a label and that the model calls positive (probability of 0.5 or more). It
counts how often the map's peak lies in the lesion, and how often within one cell of the feature grid of it.
Beside both is the rate of a random point in the head. The table has every informative grid of the network,
and several methods. "as pixels" places the cells as if the grid were a smaller copy of the image. The row
with a star is what `ich explain` does. Every map ends at the skull.

    python benchmarks/phantom.py --out runs/phantom --seeds 0
    python benchmarks/explain.py --run runs/phantom/0 --data data/phantom --masks data/phantom_masks
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from captum.attr import LayerActivation, LayerGradCam, LayerGradientXActivation, Occlusion

from ich.dicom import read_hu
from ich.explain import METHODS, explain_finely, lay_out
from ich.explain.grids import detour, find_grid, gradients, list_grids
from ich.explain.inside import end_inside, find_inside
from ich.image.resize import resize_hu, restore_size
from ich.index import index_paths
from ich.model_files.checkpoint import find_checkpoint
from ich.models import load_slice_net
from ich.phantom import write_phantom
from ich.phantom.folders import MANIFEST
from ich.schema import LABELS, SUBTYPES
from ich.tables import read_predictions

BATCH = 32
THRESHOLD = 0.5
OCCLUDED = 8  # cells a side of the image


def read_slices(root, run):
    """Predictions of the held-out parts with ``hu`` and ``mask``."""
    table = pd.concat([read_predictions(run / f"predictions_{part}.csv") for part in ("val", "test")])
    _, index = index_paths([root / "stage_2_train"])
    paths = index.table.set_index("SOPInstanceUID")["path"]
    table["hu"] = [read_hu(root / "stage_2_train" / Path(paths[uid]).name) for uid in table["SOPInstanceUID"]]
    table["mask"] = [np.load(root / "masks" / f"{uid}.npz")["mask"] for uid in table["SOPInstanceUID"]]
    return table


def find_head(hu):
    """(Rows, Columns) bool: the largest thing denser than fat, with what it encloses."""
    _, parts, stats, _ = cv2.connectedComponentsWithStats((hu > -300).astype(np.uint8))
    head = parts == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()
    outside = cv2.connectedComponents((~head).astype(np.uint8))[1]
    return outside != outside[0, 0]


def score(heats, slices, label, side):
    """Shares of peaks in the lesion and within a cell of it, and of the head's pixels that would count."""
    rows = []
    for heat, hu, mask in zip(heats, slices["hu"], slices["mask"], strict=True):
        lesion = (mask > 0) if label == "any" else (mask >> SUBTYPES.index(label) & 1) > 0
        cell = round(max(hu.shape) / side)
        near = cv2.dilate(lesion.astype(np.uint8), np.ones((2 * cell + 1, 2 * cell + 1), np.uint8)) > 0
        heat, _ = end_inside(restore_size(heat, *hu.shape), find_inside(hu, label))
        peak = np.unravel_index(heat.argmax(), heat.shape)
        head, found = find_head(hu), heat.max() > 0
        rows.append([found and lesion[peak], found and near[peak], lesion[head].mean(), near[head].mean()])
    return np.mean(rows, axis=0)


def layer_cam(model, passage, x, target):
    """Of captum's parts: positive gradients times activations (Jiang et al., IEEE TIP 2021)."""
    slopes = LayerGradientXActivation(model, passage, multiply_by_inputs=False).attribute(x, target)
    return slopes.relu() * LayerActivation(model, passage).attribute(x)


MAPS = {
    "gradcam": lambda model, passage, x, target: LayerGradCam(model, passage).attribute(x, target),
    "hirescam": lambda model, passage, x, target: LayerGradientXActivation(model, passage).attribute(
        x, target
    ),
    "layercam": layer_cam,
}


def map_with(name, model, x, *, label, grid):
    with gradients(model, x) as x, detour(grid) as passage:
        map_ = MAPS[name](model, passage, x, LABELS.index(label)).detach().sum(dim=1, keepdim=True)
    return lay_out(map_, grid.shift, x.shape[-1]).relu()


def occlude(model, x, *, label):
    """Of no grid: how much the logit falls where a square is air."""
    width = x.shape[-1] // OCCLUDED
    with torch.no_grad():
        fall = Occlusion(model).attribute(
            x,
            sliding_window_shapes=(x.shape[1], width, width),
            strides=(x.shape[1], width // 2, width // 2),
            target=LABELS.index(label),
            baselines=float(x.min()),
        )
    return fall.mean(dim=1).relu()


def compare(model, images, slices, label):
    """Yields one row for each grid and method."""
    chosen = find_grid(model, images)
    positive = ((slices[f"target_{label}"] == 1) & (slices[f"prob_{label}"] >= THRESHOLD)).to_numpy(copy=True)
    if not positive.any():
        return
    found, x = slices[positive], images[positive]
    counts = {"label": label, "slices": len(found), "patients": found["PatientID"].nunique()}

    def row(name, grid, side, draw):
        heats = np.concatenate([draw(x=batch).numpy() for batch in x.split(BATCH)])
        scores = score(heats, found, label, side)
        named = ("in_lesion", "near_lesion", "chance_in", "chance_near")
        return counts | {"grid": grid, "side": side, "method": name} | dict(zip(named, scores, strict=True))

    own = partial(explain_finely, model, label=label, grid=chosen)
    yield row(f"* {METHODS[0]}, finely", chosen.name, chosen.layout.side, own)
    with gradients(model, images) as copy:
        grids = list_grids(model, copy[:1])
    for grid in grids:
        shifted = find_grid(model, images, grids=[grid])
        for title, one in (("", shifted), (" as pixels", replace(shifted, shift=(0.0, 0.0)))):
            for name in MAPS:
                draw = partial(map_with, name, model, label=label, grid=one)
                yield row(name + title, grid.name, grid.layout.side, draw)
    yield row("occlusion", "", OCCLUDED, partial(occlude, model, label=label))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="of a training on the phantom")
    parser.add_argument("--data", type=Path, required=True, help="the phantom that it was trained on")
    parser.add_argument("--masks", type=Path, required=True, help="where the same goes with masks")
    parser.add_argument("--labels", nargs="+", default=list(LABELS), choices=LABELS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    parameters = json.loads((args.data / MANIFEST).read_text()) | {"masks": True}
    del parameters["version"]
    write_phantom(args.masks, **parameters)
    for path in sorted((args.data / "stage_2_train").iterdir()):
        assert path.read_bytes() == (args.masks / "stage_2_train" / path.name).read_bytes(), path.name
    model = load_slice_net(find_checkpoint(args.run, "best"))
    slices = read_slices(args.masks, args.run)
    hu = torch.stack([torch.from_numpy(resize_hu(image, model.input.size))[None] for image in slices["hu"]])
    images = model.window(hu)
    table = pd.DataFrame([row for label in args.labels for row in compare(model, images, slices, label)])
    print(table.to_string(index=False, float_format="{:.2f}".format))
    if args.json:
        table.to_json(args.json, orient="records", indent=2)


if __name__ == "__main__":
    main()
