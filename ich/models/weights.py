"""Weights of a backbone in a local file: which tensors are the backbone's, and whether all are there.

Training code wraps a backbone before it saves it, so that its names begin with ``module.`` or ``encoder_q.``.
timm loads a file of which nothing fits without a word, and training then starts from random weights.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from safetensors import SafetensorError
from timm.models import load_state_dict
from torch import Tensor, nn

from ich.schema import UserError

PREFIXES = (
    *("module.", "_orig_mod."),  # PyTorch: several processes, compiled
    *("model.", "net.", "network.", "backbone.", "encoder.", "trunk."),  # Lightning modules, by habit
    *("encoder_q.", "base_encoder.", "momentum_encoder."),  # MoCo 1 and 2, MoCo 3
    *("teacher.", "student.", "online_network.", "target_network."),  # DINO, BYOL
)
"""What training code puts before the names of a backbone's tensors, one or several of them."""

_DEPTH = 4  # prefixes before one name, at most
_NAMED = 3  # names of a kind in a message

_READ_ERRORS = (
    *(pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, TypeError, AssertionError),
    *(KeyError, IndexError, AttributeError, EOFError, OSError),
)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Reads the tensors of a file: safetensors, or PyTorch's format without running code of the file.

    Raises:
        UserError: If it is neither, or holds no tensors by name.
    """
    try:
        found = load_state_dict(str(path), weights_only=True)
    except _READ_ERRORS as error:
        raise UserError(
            f"model.weights_file={path} cannot be read, or not safely ({type(error).__name__}): expected a "
            "safetensors file, or tensors by name that torch.save wrote. A bundle of ich goes into "
            "model.init_from"
        ) from error
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        fields = ", ".join(sorted(map(str, found))[:_NAMED]) or "nothing"
        raise UserError(f"model.weights_file={path} holds no tensors by name; found {fields}")
    return weights


def select_backbone(
    weights: Mapping[str, Tensor], backbone: nn.Module, heads: Iterable[str]
) -> dict[str, Tensor]:
    """Selects the tensors of a backbone, without the prefixes that training code gave them.

    Heads are left out and, where the backbone is whole, what lies beside it: projections, queues. What a
    deeper network of the family has more stays, as it lies within the modules of the backbone.

    Args:
        weights: Of a file.
        backbone: As timm builds it; the selection is the one that shares the most names with it.
        heads: Names of the classifiers that published weights have.
    """
    expected = backbone.state_dict().keys()
    chosen = max(_strip(weights), key=lambda names: len(expected & names.keys()))
    starts = tuple(f"{head}." for head in heads)
    chosen = {name: full for name, full in chosen.items() if not name.startswith(starts)}
    if expected <= chosen.keys():
        modules = {name.partition(".")[0] for name in expected}
        chosen = {name: full for name, full in chosen.items() if name.partition(".")[0] in modules}
    return {name: weights[full] for name, full in chosen.items()}


def describe_misfit(
    path: str, name: str, weights: Mapping[str, Tensor], backbone: nn.Module, stem: str
) -> str:
    """Says how the tensors of a file and those of a backbone differ, with counts and the first names.

    Args:
        path: The file.
        name: Of the backbone.
        weights: What was selected of the file.
        backbone: As timm builds it.
        stem: Name of the tensor that is made over for the channels, so that its shape may differ.
    """
    expected = backbone.state_dict()
    missing = [each for each in expected if each not in weights]
    foreign = [each for each in weights if each not in expected]
    shaped = [
        f"{each} {tuple(weights[each].shape)} for {tuple(expected[each].shape)}"
        for each in expected
        if each in weights and weights[each].shape != expected[each].shape and each != stem
    ]
    kinds = {
        "are not in the file": missing,
        "have another shape there": shaped,
        f"of the file are not of {name}": foreign,
    }
    listed = "; ".join(f"{len(names)} {kind} ({_show(names)})" for kind, names in kinds.items() if names)
    fitting = len(expected) - len(missing) - len(shaped)
    return (
        f"model.weights_file={path} does not hold the weights of model.backbone={name}: {fitting} of its "
        f"{len(expected)} tensors fit; {listed}. Name the backbone that the file is of, or start from random "
        "weights with model.pretrained=false and without model.weights_file"
    )


def _strip(weights: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Yields selections of the names of a file, those of fewer prefixes first: short name to full name."""
    selections = [{name: name for name in weights}]
    for _ in range(_DEPTH):
        yield from selections
        selections = [
            {name.removeprefix(prefix): full for name, full in names.items() if name.startswith(prefix)}
            for names in selections
            for prefix in PREFIXES
            if any(name.startswith(prefix) for name in names)
        ]
    yield from selections


def _show(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
