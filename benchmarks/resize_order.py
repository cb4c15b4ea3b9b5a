"""Effect of resizing HU before windowing, as this library does, instead of after it.

Windowing clips, and resizing averages. Their order matters where the surroundings of a pixel cross an end of
the window, mostly at the skull. Differences are in units of the window's width.

    python benchmarks/resize_order.py data/ct_ich --size 256
"""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from rich.progress import track

from ich.dicom import read_hu
from ich.image.resize import resize_hu
from ich.image.window import apply_window
from ich.index import build_index
from ich.schema import WINDOWS

EDGE_HU = 300  # least change within a block that counts as an edge: from soft tissue to bone


def compare(hu: np.ndarray, size: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Absolute differences by window, each (size, size), and where edges are."""
    resized = torch.from_numpy(resize_hu(hu, size))
    differences = {}
    for name, (center, width) in WINDOWS.items():
        windowed = apply_window(torch.from_numpy(hu), center, width).numpy()
        after = cv2.resize(windowed, (size, size), interpolation=cv2.INTER_AREA)
        differences[name] = np.abs(apply_window(resized, center, width).numpy() - after)
    side = -(-hu.shape[0] // size)
    spread = cv2.dilate(hu, np.ones((side + 1, side + 1))) - cv2.erode(hu, np.ones((side + 1, side + 1)))
    edges = cv2.resize(spread, (size, size), interpolation=cv2.INTER_NEAREST) > EDGE_HU
    return differences, edges


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of DICOM files")
    parser.add_argument("--size", type=int, default=256, help="in pixels (default: %(default)s)")
    args = parser.parse_args()
    table = build_index(args.root).table
    rows = []
    for path in track(table["path"], "Comparing", transient=True):
        hu = read_hu(args.root / path)
        if hu.shape[0] != hu.shape[1]:
            continue  # padding to a square comes between
        differences, edges = compare(hu, args.size)
        for name, difference in differences.items():
            rows.append(
                {
                    "window": name,
                    "mean": difference.mean(),
                    "99th percentile": np.quantile(difference, 0.99),
                    "largest": difference.max(),
                    "mean at edges": difference[edges].mean() if edges.any() else np.nan,
                    "mean elsewhere": difference[~edges].mean(),
                    "share of edges": edges.mean(),
                }
            )
    means = pd.DataFrame(rows).groupby("window", sort=False).mean()
    print(f"{len(table)} slices of {table['PatientID'].nunique()} patients at {args.size} px; differences in")
    print("units of the window's width, means over slices:")
    print(means.to_string(float_format="{:.4f}".format))


if __name__ == "__main__":
    main()
