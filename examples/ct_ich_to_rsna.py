"""Turns the publisher's CT-ICH download into the layout of the RSNA 2019 data set.

    python examples/ct_ich_to_rsna.py DOWNLOAD OUT

DOWNLOAD is the unpacked archive, in either of its two forms:

    hemorrhage_diagnosis.csv         version 1.0.0: every slice exported through a brain window (level 40,
    Patients_CT/049/brain/1.jpg      width 120 HU) and a bone window (level 700, width 3200 HU)
    Patients_CT/049/bone/1.jpg

    hemorrhage_diagnosis_raw_ct.csv  version 1.3.1: NIfTI volumes in HU (needs `pip install nibabel`); taken
    ct_scans/049.nii                 where both forms are there

OUT/stage_2_train/ID_*.dcm and OUT/stage_2_train.csv are what it writes. From the exports, HU are good to
about 0.5 HU between -20 and 100 HU and to about 12.5 HU elsewhere, clipped to -900..2300 HU, and the geometry
is nominal. Nothing is random: the same download gives the same files.

Data: M. D. Hssayeni, Computed Tomography Images for Intracranial Hemorrhage Detection and Segmentation,
PhysioNet, https://physionet.org/content/ct-ich; described in Hssayeni et al., Intracranial Hemorrhage
Segmentation Using a Deep Convolutional Model, Data 2020, 5(1), 14. Cite both. Version 1.0.0 is under CC BY
4.0; later ones are under the license that their page on PhysioNet names. Research use only.
"""

import argparse
import csv
import hashlib
import importlib
import shutil
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rich.progress import track

from ich.schema import LABELS, SUBTYPES, UserError

EXPORTS = {"brain": (40, 120), "bone": (700, 3200)}  # center and width in HU
SIZE, SPACING, THICKNESS = 512, 0.48828125, 5.0  # pixels, mm, mm: nominal, the exports carry no geometry


@dataclass
class Slice:
    """One slice as both forms of the download give it."""

    hu: np.ndarray  # (H, W) float32
    position: Sequence[float]  # mm, DICOM's patient axes: left, posterior, superior
    orientation: Sequence[float]
    spacing: Sequence[float]  # mm between rows, between columns
    signed: bool


Labels = dict[int, dict[int, list[int]]]  # patient -> slice number -> a label for each of SUBTYPES
Slices = Iterator[tuple[int, Slice]]  # with their numbers


def read_labels(path: Path, set_aside: Counter[str]) -> Labels:
    columns = ["PatientNumber", "SliceNumber", *(name.capitalize() for name in SUBTYPES)]
    labels: Labels = defaultdict(dict)
    with path.open(newline="", encoding="utf-8-sig") as handle:
        reader = csv.DictReader(handle)
        if missing := [column for column in columns if column not in (reader.fieldnames or [])]:
            raise UserError(f"{path} lacks the columns {', '.join(missing)}: is it the publisher's file?")
        for row in reader:
            try:
                patient, number, *values = (int(float(row[column])) for column in columns)
                healthy = int(float(row.get("No_Hemorrhage") or not any(values)))
            except ValueError:
                raise UserError(f"{path}, line {reader.line_num}: expected numbers, found {row}") from None
            if not set(values) <= {0, 1}:
                raise UserError(f"{path}, line {reader.line_num}: expected labels 0 or 1, found {values}")
            if labels[patient].get(number, values) != values:
                raise UserError(
                    f"{path}, line {reader.line_num}: other labels than before for the same slice"
                )
            if healthy == any(values):
                set_aside["No_Hemorrhage contradicts the subtypes"] += 1
            else:
                labels[patient][number] = values
    return labels


def rebuild_hu(brain: np.ndarray, bone: np.ndarray) -> np.ndarray:
    """(H, W) gray exports -> (H, W) HU: the brain window where it is not saturated, else the bone window.

    JPEG blurs the ends of the scale, so a few gray values next to them count as saturated too.
    """
    soft, hard = (
        gray.astype(np.float32) / 255 * width + (center - width / 2)
        for gray, (center, width) in zip((brain, bone), EXPORTS.values(), strict=True)
    )
    hu = np.where(brain <= 4, np.minimum(hard, -20), soft)
    return np.where(brain >= 250, np.maximum(hard, 100), hu)


def read_exports(root: Path, patient: int, numbers: Sequence[int], set_aside: Counter[str]) -> Slices:
    for number in numbers:
        paths = [root / "Patients_CT" / f"{patient:03d}" / window / f"{number}.jpg" for window in EXPORTS]
        if not all(path.is_file() for path in paths):
            set_aside["no picture in one of the two windows"] += 1
            continue
        brain, bone = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths)
        if brain is None or bone is None or brain.shape != bone.shape:
            raise UserError(
                f"{paths[0]} and its bone window are not pictures of one size: download them again"
            )
        hu = cv2.resize(rebuild_hu(brain, bone), (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        corner = -SIZE * SPACING / 2
        # The files of the RSNA are about half signed and half unsigned; so are these.
        yield (
            number,
            Slice(
                hu,
                position=[corner, corner, THICKNESS * number],
                orientation=[1, 0, 0, 0, 1, 0],
                spacing=[SPACING, SPACING],
                signed=patient % 2 == 1,
            ),
        )


def read_volume(root: Path, patient: int, numbers: Sequence[int], set_aside: Counter[str]) -> Slices:
    try:
        nib: Any = importlib.import_module("nibabel")  # by name, for it is needed here only
    except ImportError:
        raise UserError("the NIfTI volumes need nibabel: pip install nibabel") from None
    path = next(iter(sorted((root / "ct_scans").glob(f"{patient:03d}.nii*"))), None)
    if path is None:
        set_aside["no volume of the patient"] += len(numbers)
        return
    try:
        image = nib.load(path)
        axes = nib.aff2axcodes(image.affine)
        if len(image.shape) != 3 or axes[2] not in ("I", "S"):
            raise UserError(f"{path}: shape {image.shape}, axes {axes}: expected a volume of axial slices")
        if not image.header["sform_code"] and not image.header["qform_code"]:
            print(f"{path.name} stores no orientation: its columns are taken to run to the patient's left")
        # Columns run to the patient's left and rows to the back, as in DICOM; the slices keep their numbers.
        wanted = nib.orientations.axcodes2ornt(("L", "P", axes[2]))
        image = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        volume = np.asanyarray(image.dataobj)
    except (OSError, EOFError, zlib.error, nib.filebasedimages.ImageFileError) as error:
        raise UserError(f"{path} cannot be read: {error}. Download it again") from error
    affine = np.diag([-1, -1, 1, 1]) @ image.affine  # NIfTI counts to the right and to the front
    columns, rows = affine[:3, 0], affine[:3, 1]
    spacing = [float(np.linalg.norm(rows)), float(np.linalg.norm(columns))]
    for number in numbers:
        if not 1 <= number <= volume.shape[2]:
            set_aside["beyond the slices of the volume"] += 1
            continue
        yield (
            number,
            Slice(
                volume[:, :, number - 1].T.astype(np.float32),
                position=(affine @ [0, 0, number - 1, 1])[:3].tolist(),
                orientation=[*(columns / spacing[1]).tolist(), *(rows / spacing[0]).tolist()],
                spacing=spacing,
                signed=True,
            ),
        )


def identify(*parts: object, length: int = 9) -> str:
    return "ID_" + hashlib.sha1("/".join(map(str, parts)).encode()).hexdigest()[:length]


def make_dicom(content: Slice, patient: int, number: int) -> FileDataset:
    """A slice with the attributes that the RSNA's files carry."""
    intercept = 0 if content.signed else -1024
    stored = np.rint(content.hu - intercept)
    bits = 16 if content.signed else 12
    lowest, highest = (-(2**15), 2**15 - 1) if content.signed else (0, 2**bits - 1)
    if not (np.isfinite(stored).all() and stored.min() >= lowest and stored.max() <= highest):
        raise UserError(f"patient {patient}, slice {number}: values beyond {bits} bit, so no CT in HU")
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(patient), str(number)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID = CTImageStorage
    ds.SOPInstanceUID = identify("slice", patient, number)
    ds.Modality = "CT"
    ds.PatientID = identify("patient", patient, length=8)
    ds.StudyInstanceUID = identify("study", patient, length=10)
    ds.SeriesInstanceUID = identify("series", patient, length=10)
    ds.StudyID = ""
    ds.ImagePositionPatient = [round(value, 6) for value in content.position]
    ds.ImageOrientationPatient = [round(value, 6) for value in content.orientation]
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.PixelSpacing = [round(value, 8) for value in content.spacing]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits, bits - 1
    ds.PixelRepresentation = int(content.signed)
    ds.WindowCenter, ds.WindowWidth = ([40, 40], [80, 80]) if content.signed else (40, 80)
    ds.RescaleIntercept, ds.RescaleSlope = intercept, 1
    ds.PixelData = stored.astype("<i2" if content.signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def write_dataset(root: Path, out: Path, patients: Sequence[int] | None) -> tuple[int, Counter[str]]:
    """Writes the data set and returns the number of slices, and of those set aside by reason."""
    nifti = (root / "ct_scans").is_dir()
    table = root / ("hemorrhage_diagnosis_raw_ct.csv" if nifti else "hemorrhage_diagnosis.csv")
    if not table.is_file() or not (nifti or (root / "Patients_CT").is_dir()):
        raise UserError(
            f"{root} is not a CT-ICH download: expected hemorrhage_diagnosis.csv beside Patients_CT/, or "
            "hemorrhage_diagnosis_raw_ct.csv beside ct_scans/"
        )
    set_aside: Counter[str] = Counter()
    labels = read_labels(table, set_aside)
    if unknown := sorted(set(patients or ()) - set(labels)):
        raise UserError(f"--patients {unknown}: not in {table}, which has {min(labels)} to {max(labels)}")
    read = read_volume if nifti else read_exports
    written = 0
    (out / "stage_2_train").mkdir(parents=True)
    with (
        (out / "stage_2_train.csv").open("w", newline="") as handle,
        pydicom.config.disable_value_validation(),
    ):
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(["ID", "Label"])
        for patient in track(sorted(patients or labels), description="patients", transient=True):
            for number, content in read(root, patient, list(labels[patient]), set_aside):
                ds = make_dicom(content, patient, number)
                ds.save_as(out / "stage_2_train" / f"{ds.SOPInstanceUID}.dcm", enforce_file_format=True)
                values = labels[patient][number]
                for label, value in zip(LABELS, [*values, int(any(values))], strict=True):
                    writer.writerow([f"{ds.SOPInstanceUID}_{label}", value])
                written += 1
    if not written:
        raise UserError(f"{root}: none of the slices in {table.name} has a picture: {dict(set_aside)}")
    return written, set_aside


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with code 2 after one message where something is wrong."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("download", type=Path, help="folder of the unpacked download")
    parser.add_argument("out", type=Path, help="folder to write; must not exist or be empty")
    parser.add_argument("--patients", type=int, nargs="+", metavar="N", help="only these PatientNumbers")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    partial = out.with_name(f".{out.name}.part")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        parser.error(f"{args.out} exists and is not empty: name another folder or remove it")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        written, set_aside = write_dataset(args.download, partial, args.patients)
        partial.replace(out)
    except (UserError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for reason, count in set_aside.items():
        print(f"set aside {count} slices: {reason}")
    print(f"{written} slices in {args.out}. Train on them: python train.py data=rsna data.root={args.out}")


if __name__ == "__main__":
    main()
