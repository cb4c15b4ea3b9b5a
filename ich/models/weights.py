"""Weights of a backbone in a local file: selects its tensors, and checks that all exist.

Training code wraps a backbone before it saves it, so names begin with ``module.`` or ``encoder_q.``. If
nothing in a file fits, timm loads it without an error, and training starts from random weights.
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
"""Prefixes that training code puts before the names of a backbone's tensors, one or several."""

_DEPTH = 4  # prefixes before one name, at most
_NAMED = 3  # names of a kind in a message

_READ_ERRORS = (
    *(pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, TypeError, AssertionError),
    *(KeyError, IndexError, AttributeError, EOFError, OSError),
)


def read_weights(path: Path, place: str) -> dict[str, Tensor]:
    """Reads the tensors of a file: safetensors, or PyTorch's format without running its code.

    Args:
        path: The file.
        place: The file, as messages name it.

    Raises:
        UserError: If it is neither, or holds no tensors by name.
    """
    try:
        found = load_state_dict(str(path), weights_only=True)
    except _READ_ERRORS as error:
        raise UserError(
            f"{place} cannot be read safely ({type(error).__name__}): expected a "
            "safetensors file, or tensors by name from torch.save. Use model.init_from for a bundle of ich"
        ) from error
    weights = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if not weights:
        fields = ", ".join(sorted(map(str, found))[:_NAMED]) or "nothing"
        raise UserError(f"{place} holds no tensors by name; found {fields}")
    return weights


def select_backbone(
    weights: Mapping[str, Tensor], backbone: nn.Module, heads: Iterable[str]
) -> dict[str, Tensor]:
    """Selects the tensors of a backbone, without the prefixes of training code.

    Heads are left out. If the backbone is complete, other parts such as projections and queues are left out
    too. Additional tensors of a deeper network of the family stay, because they lie within the modules of the
    backbone.

    Args:
        weights: Weights from a file.
        backbone: The backbone built by timm; the selection shares the most names with it.
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
    weights: Mapping[str, Tensor], module: nn.Module, name: str, *, adapted: str | None = None
) -> str:
    """Says how tensors of a file and those of a module differ, with counts and the first names.

    Args:
        weights: Tensors of the file, under the names of the module.
        module: The module that they are for.
        name: The module, as messages name it.
        adapted: Name of a tensor that may have another shape.

    Returns:
        The differences; empty if all tensors fit.
    """
    expected = module.state_dict()
    missing = [each for each in expected if each not in weights]
    foreign = [each for each in weights if each not in expected]
    shaped = [
        f"{each} {tuple(weights[each].shape)} for {tuple(expected[each].shape)}"
        for each in expected
        if each in weights and weights[each].shape != expected[each].shape and each != adapted
    ]
    kinds = {
        "are not in the file": missing,
        "have another shape in it": shaped,
        f"of the file do not belong to {name}": foreign,
    }
    if not any(kinds.values()):
        return ""
    listed = "; ".join(f"{len(names)} {kind} ({_show(names)})" for kind, names in kinds.items() if names)
    fitting = len(expected) - len(missing) - len(shaped)
    return f"{fitting} of its {len(expected)} tensors fit; {listed}"


def _strip(weights: Mapping[str, Tensor]) -> Iterator[dict[str, str]]:
    """Yields selections of the names of a file, from short to full name; fewer prefixes first."""
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
