"""Backbones of the user's own: building one, describing it in a file, and building it again from there."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ich.model_files.metadata import BACKBONE, OwnBackbone
from ich.schema import UserError

Maker = Callable[..., nn.Module]
"""A class or function that makes a backbone, or a ``functools.partial`` of one."""

_ENTRY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.?")
_ERRORS = (RuntimeError, AssertionError, TypeError, ValueError, KeyError, IndexError, AttributeError)


def describe_backbone(backbone: nn.Module | Maker) -> tuple[str, OwnBackbone]:
    """Describes a backbone for a file: its dotted name, and what to make it with.

    Raises:
        UserError: If it cannot be imported by a name, or an argument is not a plain value or has no name.
    """
    if isinstance(backbone, nn.Module):
        return _require_name(type(backbone)), OwnBackbone(None)
    maker, positional, arguments = backbone, (), {}
    if isinstance(backbone, partial):
        maker, positional, arguments = backbone.func, backbone.args, backbone.keywords
    target = _require_name(maker)
    if positional:
        raise UserError(f"model.backbone={target}: give each argument by its name")
    for name, value in arguments.items():
        if not _is_plain(value):
            raise UserError(
                f"model.backbone={target}: a file cannot keep {name}={value!r}; give numbers, texts, true, "
                "false, null, or lists and mappings of them"
            )
    return target, OwnBackbone(dict(arguments))


def build_backbone(backbone: nn.Module | Maker, in_chans: int) -> nn.Module:
    """Builds a backbone; it is told ``in_chans`` if it takes that and is not given it.

    Raises:
        UserError: If it cannot be built.
    """
    if isinstance(backbone, nn.Module):
        return backbone
    target, own = describe_backbone(backbone)
    try:
        takes = inspect.signature(backbone.func if isinstance(backbone, partial) else backbone).parameters
        offered = (
            {"in_chans": in_chans} if "in_chans" in takes and "in_chans" not in (own.arguments or {}) else {}
        )
        built = backbone(**offered)
    except _ERRORS as error:
        raise UserError(f"model.backbone={target} cannot be built: {_say(error)}") from error
    if not isinstance(built, nn.Module):
        raise UserError(f"model.backbone={target} makes a {type(built).__name__}; expected a torch.nn.Module")
    return built


def count_features(backbone: nn.Module, image: Tensor) -> int:
    """Counts the features of a backbone by one pass.

    Args:
        backbone: It is left in training mode.
        image: (1, C, S, S).

    Raises:
        UserError: If it does not take the image, or gives neither (N, F) nor (N, F, h, w).
    """
    target = _name(type(backbone))
    try:
        with torch.no_grad():
            found = backbone.eval()(image)
    except _ERRORS as error:
        raise UserError(
            f"model.backbone={target} does not take images of shape {tuple(image.shape)}: {_say(error)}"
        ) from error
    finally:
        backbone.train()
    if not isinstance(found, Tensor) or found.ndim not in (2, 4) or len(found) != 1:
        shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"model.backbone={target} turns (1, C, S, S) into {shape}; expected (1, F) or (1, F, h, w)"
        )
    return found.shape[1]


def check_trusted(trusted: Any) -> tuple[str, ...]:
    """Returns what a user trusts.

    Raises:
        UserError: If it is not a list of prefixes and names.
    """
    entries = [trusted] if isinstance(trusted, str) else list(trusted or ())
    for entry in entries:
        if not (isinstance(entry, str) and _ENTRY.fullmatch(entry) and "." in entry):
            raise UserError(
                f"trusted={entry}: expected a prefix that ends with a dot, such as mypackage., or the whole "
                "name of a class, such as mypackage.MyLoss"
            )
    return tuple(entries)


def suggest_entry(target: str, others: Iterable[str] = ()) -> str:
    """Suggests what to trust for a name: the user's own package, but of other packages only the name.

    Packages that are not the user's own hold functions that run code from files.

    Args:
        target: Dotted name.
        others: Packages that are not the user's own, beside those of Python.
    """
    package = target.partition(".")[0]
    return target if package in {*sys.stdlib_module_names, *others} else f"{package}."


def find_maker(
    target: str, arguments: Mapping[str, Any] | None, trusted: Sequence[str], source: str
) -> Maker:
    """Finds what makes the backbone that a file names, if the user trusts it.

    Args:
        target: Dotted name, from the file.
        arguments: From the file.
        trusted: Prefixes that end with a dot, and whole names. They come from the user, never from the file.
        source: Names the file in messages.

    Raises:
        UserError: If the target is not trusted, does not exist, or was given as an object.
    """
    prefixes = tuple(entry for entry in trusted if entry.endswith("."))
    entry = suggest_entry(target)
    consent = f"If you trust this code, give --trust {entry} (in Python trusted=['{entry}'])"
    if target not in trusted and not target.startswith(prefixes):
        raise UserError(f"{source} has a backbone that is not a timm model, {target}. {consent}")
    if arguments is None:
        raise UserError(
            f"{source}: its backbone was given as an object, {target}, so that the file does not say how to "
            f"build it; give load_slice_net(..., backbone={target.rpartition('.')[2]}(...))"
        )
    try:
        found = pydoc.locate(target)
    except pydoc.ErrorDuringImport as error:
        raise UserError(f"{source} has the backbone {target}, which cannot be imported: {error}") from error
    if not callable(found):
        raise UserError(f"{source} has the backbone {target}, which is not there: install its package")
    # A module also holds what it has imported.
    if target not in trusted and not (own := _name(found)).startswith(prefixes):
        raise UserError(f"{source} has the backbone {target}, which is {own} and so is not trusted")
    return partial(found, **arguments)


def _require_name(maker: Any) -> str:
    """Returns the dotted name of a class or function, if importing that name gives the same object."""
    target = _name(maker)
    try:  # a method of a class is a new object each time, which equals the others
        same = re.fullmatch(BACKBONE, target) is not None and bool(pydoc.locate(target) == maker)
    except pydoc.ErrorDuringImport:
        same = False
    if not same:
        raise UserError(
            f"model.backbone={target}: a file cannot keep this name, because it does not import the same "
            "class or function; define it at the top level of a module, with a name of ASCII letters, digits "
            "and underscores"
        )
    return target


def _name(maker: Any) -> str:
    return f"{getattr(maker, '__module__', None)}.{getattr(maker, '__qualname__', None)}"


def _is_plain(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError, RecursionError):
        return False


def _say(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
