"""Other ways to read slices, as people use them.

Each function takes the paths of the slices and the size of the output. It returns a function that reads one
slice by its row, or None if the package is not installed. Files, settings and models are made before, so that
a call does only what a training run does for every slice.
"""

import logging
import os
import warnings
from collections.abc import Callable, Sequence
from hashlib import sha1
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pandas as pd
import pydicom
import torch
from albumentations.pytorch import ToTensorV2
from numpy.typing import NDArray
from torch.utils.data import Dataset

Read = Callable[[int], Any]

WINDOWS = ((40, 80), (80, 200), (40, 380))
"""Center and width in HU: brain, subdural, soft tissue."""

MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)

KEYWORDS = (
    *("SOPInstanceUID", "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "InstanceNumber"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit"),
)
"""What the index holds of a header."""

# Checking values takes pydicom a fifth of its time, and whoever reads the RSNA's UIDs turns it off.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE


def read_hu(path: str) -> NDArray[np.float64]:
    """HU as in the public kernels of the RSNA competition that have the quirk."""
    ds = pydicom.dcmread(path)
    pixels, intercept = ds.pixel_array, float(ds.RescaleIntercept)
    if ds.BitsStored == 12 and ds.PixelRepresentation == 0 and intercept > -100:
        pixels = pixels + 1000
        pixels[pixels >= 4096] -= 4096
        intercept = -1000.0
    hu: NDArray[np.float64] = pixels * float(ds.RescaleSlope) + intercept
    return hu


def window(hu: NDArray[Any]) -> NDArray[Any]:
    """(H, W) HU -> (H, W, 3) gray values from 0 to 1."""
    lows = [(center - width / 2, width) for center, width in WINDOWS]
    return np.stack([np.clip((hu - low) / width, 0, 1) for low, width in lows], axis=-1)


def kernel(paths: Sequence[str], size: int) -> Read:
    """The public kernels of the RSNA competition: pydicom, three windows, resize."""
    return lambda row: cv2.resize(window(read_hu(paths[row])), (size, size))


def normalized_kernel(paths: Sequence[str], size: int) -> Read:
    """The same, up to what a network takes."""
    read = kernel(paths, size)

    def run(row: int) -> torch.Tensor:
        image = (read(row).astype(np.float32) - MEAN) / STD
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    return run


def resized_first(paths: Sequence[str], size: int) -> Read:
    """What a hurried user of pydicom does: the stored values are resized, then the few are rescaled."""

    def run(row: int) -> NDArray[np.float64]:
        ds = pydicom.dcmread(paths[row])
        small = cv2.resize(ds.pixel_array, (size, size), interpolation=cv2.INTER_AREA)
        return small * float(ds.RescaleSlope) + float(ds.RescaleIntercept)  # type: ignore[no-any-return]

    return run


def monai(paths: Sequence[str], size: int, *, resize_first: bool, track_meta: bool = True) -> Read | None:
    """MONAI's transforms, which carry the affine and the history of an image along unless told not to."""
    if find_spec("monai") is None:
        return None
    with warnings.catch_warnings():
        # Both tell of a codec for GPUs that is not installed.
        warnings.simplefilter("ignore")
        logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
        from monai.data import PydicomReader, set_track_meta
        from monai.transforms import Compose, EnsureChannelFirst, LoadImage, Resize, ScaleIntensityRange

        load = LoadImage(reader=PydicomReader(), image_only=True)
    ranges = [(center - width / 2, center + width / 2) for center, width in WINDOWS]
    scales = [ScaleIntensityRange(low, high, 0, 1, clip=True) for low, high in ranges]
    steps = [lambda image: torch.cat([scale(image) for scale in scales]), Resize((size, size))]
    channel = EnsureChannelFirst() if track_meta else EnsureChannelFirst(channel_dim="no_channel")
    transform = Compose([load, channel, *(reversed(steps) if resize_first else steps)])

    def run(row: int) -> Any:
        set_track_meta(track_meta)  # MONAI's switch is global; to set it takes no time
        return transform(paths[row])

    return run


def dicomsdl(paths: Sequence[str], size: int) -> Read | None:
    """A reader in C++: HU as float32, resized."""
    if find_spec("dicomsdl") is None:
        return None
    import dicomsdl as sdl

    return lambda row: cv2.resize(
        sdl.open(paths[row]).pixelData(), (size, size), interpolation=cv2.INTER_AREA
    )


def png(paths: Sequence[str], size: int, folder: Path) -> Read:
    """A data set that was turned beforehand into 8-bit PNGs of three windows."""
    images = write_pngs(paths, size, folder)
    return lambda row: cv2.imread(images[row])


def write_pngs(paths: Sequence[str], size: int, folder: Path) -> list[str]:
    """Writes each slice's three windows, unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    # By the whole path: files of several folders may share a name, and several roots a working folder.
    images = [str(folder / f"{sha1(path.encode()).hexdigest()}.png") for path in paths]
    for path, image in zip(paths, images, strict=True):
        if not Path(image).exists():
            small = cv2.resize(window(read_hu(path)), (size, size), interpolation=cv2.INTER_AREA)
            cv2.imwrite(image, (small * 255).round().astype(np.uint8))
    return images


def pread(table: pd.DataFrame, paths: Sequence[str], size: int | None) -> Read:
    """The floor: the bytes of the pixels from the file into memory, and resized as they are, or not.

    Args:
        table: Index of the slices, which says where the pixels lie.
        paths: Of the slices.
        size: Of the output; None reads alone.
    """
    offsets, shapes = table["pixel_offset"].tolist(), table[["Rows", "Columns"]].to_numpy().tolist()
    buffer = np.empty(max(rows * columns for rows, columns in shapes), dtype=np.int16)
    out = None if size is None else np.empty((size, size), dtype=np.int16)

    def run(row: int) -> None:
        rows, columns = shapes[row]
        pixels = buffer[: rows * columns]
        file = os.open(paths[row], os.O_RDONLY | os.O_CLOEXEC)
        os.preadv(file, [pixels.data], offsets[row])
        os.close(file)
        if out is not None:
            cv2.resize(pixels.reshape(rows, columns), out.shape, dst=out, interpolation=cv2.INTER_AREA)

    return run


class PngDataset(Dataset[torch.Tensor]):
    """A PNG data set with albumentations as strong as ``augment=default``, normalized, as a tensor.

    An offset of 4 HU and a contrast of 3 % are what ``RandomBrightnessContrast`` gets for a window of 80 HU.
    """

    def __init__(self, images: Sequence[str]) -> None:
        self.images = images
        self.transform = A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.Affine(
                    rotate=(-15, 15),
                    scale=(0.9, 1.1),
                    keep_ratio=True,
                    translate_percent=(-0.05, 0.05),
                    p=1,
                ),
                A.RandomBrightnessContrast(brightness_limit=0.05, contrast_limit=0.03, p=1),
                A.Normalize(),
                ToTensorV2(),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(image=cv2.imread(self.images[row]))["image"]
        return image


def pydicom_header(paths: Sequence[str]) -> Read:
    """What pydicom reads up to the pixels, and the values that the index holds."""

    def run(row: int) -> list[Any]:
        ds = pydicom.dcmread(paths[row], stop_before_pixels=True)
        return [ds.file_meta.TransferSyntaxUID, *(ds.get(keyword) for keyword in KEYWORDS)]

    return run


def dicomsdl_header(paths: Sequence[str], *, whole: bool) -> Read | None:
    """The values that the index holds, from dicomsdl.

    Args:
        paths: Of the slices.
        whole: Open files as its documentation does; or have it stop before the pixels.
    """
    if find_spec("dicomsdl") is None:
        return None
    import dicomsdl as sdl

    keywords = ("TransferSyntaxUID", *KEYWORDS)
    until = {} if whole else {"load_until": 0x7FE00000}

    def run(row: int) -> list[Any]:
        ds = sdl.open(paths[row], **until)
        return [getattr(ds, keyword) for keyword in keywords]

    return run
