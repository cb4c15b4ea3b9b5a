"""Draws a contact sheet of a data set: slices of some studies, a study a row, through the brain window.

python examples/contact_sheet.py data/phantom phantom.png
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from ich.data.resize import resize_hu
from ich.dicom import read_hu
from ich.index import build_index, find_labels, join_labels, read_labels
from ich.report.sheets import write_contact_sheet
from ich.schema import LABELS, SUBTYPES, WINDOWS
from ich.window import apply_window


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of DICOM files with a label CSV")
    parser.add_argument("out", type=Path, help="PNG to write")
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--columns", type=int, default=8)
    args = parser.parse_args(arguments)
    table, _ = join_labels(build_index(args.root).table, read_labels(find_labels(args.root)))
    # The studies with the most subtypes show the most.
    richness = table.groupby("StudyInstanceUID")[list(LABELS)].max().sum(axis=1)
    images, titles = [], []
    for study in richness.nlargest(args.studies, keep="first").index:
        slices = table[table["StudyInstanceUID"] == study]
        for row in np.linspace(0, len(slices) - 1, args.columns).round().astype(int):
            found = slices.iloc[row]
            hu = torch.from_numpy(resize_hu(read_hu(args.root / found["path"]), 192))
            images.append(apply_window(hu, *WINDOWS["brain"]).numpy())
            titles.append("\n".join(subtype for subtype in SUBTYPES if found[subtype] == 1))
    write_contact_sheet(np.stack(images), titles, args.out, columns=args.columns)


if __name__ == "__main__":
    main()
