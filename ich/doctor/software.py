"""Packages, codecs and the model hub."""

from __future__ import annotations

from typing import Literal

from ich.dicom.codecs import DECODERS, ENCAPSULATED, describe_uid
from ich.doctor.record import Codec
from ich.machine.hub import answers, is_switched_off

PACKAGES = (
    *("torch", "torchvision", "pytorch-lightning", "torchmetrics", "timm", "kornia", "albumentations"),
    *("numpy", "scipy", "pandas", "pyarrow", "opencv-python-headless", "matplotlib"),
    *("pydicom", "highdicom", "pylibjpeg", "pylibjpeg-openjpeg", "pylibjpeg-rle", "pyjpegls", "python-gdcm"),
    *("hydra-core", "pydantic", "safetensors", "onnx", "onnxruntime", "openvino", "pynetdicom"),
)
"""Packages whose versions a bug report needs."""


def list_codecs() -> tuple[Codec, ...]:
    """Lists what decodes each compressed transfer syntax."""
    return tuple(
        Codec(
            uid, describe_uid(uid).removesuffix(f" ({uid})"), tuple(sorted(DECODERS[uid].available_plugins))
        )
        for uid in DECODERS
        if uid in ENCAPSULATED
    )


def ask_hub() -> Literal["answers", "does not answer", "switched off"]:
    """Asks the model hub, for at most some seconds."""
    if is_switched_off():
        return "switched off"
    return "answers" if answers() else "does not answer"
