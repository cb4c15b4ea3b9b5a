"""``ich import``: the weights of another program as a bundle."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ich.schema import DISCLAIMER, InputSpec, UserError, check_thickness

if TYPE_CHECKING:  # it imports torch, which takes seconds that other commands need not wait for
    from ich.models.foreign import Layout, Preset

_EXAMPLES = f"""\
examples: the public model ianpan/ct-head-hemorrhage-detection, and a network of your own

  ich import classifier/model.safetensors ianpan.zip --preset ianpan
  ich import mine.pth mine.zip --backbone resnet34 --license CC-BY-4.0 \\
      --input size=256 'windows=[brain,[600,2800]]' normalization=unit \\
      --map net.=backbone. net.fc.=head.1. --labels any epidural intraparenchymal \\
      intraventricular subarachnoid subdural

The network is a timm backbone with one linear layer. The preset follows the published description of
that model. It was tested on a file of the same layout, not on the published weights.

An imported model has no calibration, no operating point and no reference to its training data.

{DISCLAIMER}."""

_NEEDED = ("size", "windows", "normalization")


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "import",
        help=summary,
        description="Writes the weights of a network that another program trained to one file, as "
        "`ich bundle` does.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="weights: safetensors, or tensors by name from torch.save"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="new file, for instance model.zip")
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="a public model whose settings are known: ianpan; other options replace single settings",
    )
    parser.add_argument("--backbone", metavar="NAME", help="name of a timm model")
    parser.add_argument(
        "--input",
        nargs="+",
        type=_parse_pair,
        default=[],
        metavar="KEY=VALUE",
        help="what the network sees, as in a configuration: size, neighbors, windows, normalization",
    )
    parser.add_argument(
        "--map",
        nargs="+",
        type=_parse_pair,
        metavar="OLD=NEW",
        help="new beginnings for the names of tensors: ours begin with backbone. and head.1.; nothing after "
        "= leaves tensors out",
    )
    parser.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="the labels, in the order of the network's outputs"
    )
    parser.add_argument(
        "--decides", metavar="LABEL", help="the label that decides, if the labels are not the RSNA's six"
    )
    parser.add_argument(
        "--channels",
        choices=("slice", "window"),
        help="order of the channels: by slice, then by window (default), or by window, then by slice",
    )
    parser.add_argument("--link", choices=("sigmoid", "softmax"), help="from logits to probabilities")
    parser.add_argument(
        "--pool",
        choices=("last",),
        help="last: the mean over the image is taken after the last layer of the backbone (MaxViT)",
    )
    parser.add_argument(
        "--thickness",
        type=float,
        metavar="MM",
        help="usual distance between the slices of the training data; much thinner slices are averaged to it",
    )
    parser.add_argument("--license", metavar="NAME", help="license of the weights; kept in the bundle")
    parser.set_defaults(run=_run)


def _parse_pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: expected two parts with = between them")
    return name, value


def _run(args: argparse.Namespace) -> None:
    # These import torch, which takes seconds, so other commands do not.
    from ich.evaluation_report.model_card import make_imported_card
    from ich.model_files.bundle import write_bundle
    from ich.models.foreign import PRESETS, import_network
    from ich.report.markdown import render_markdown

    if args.preset is not None and args.preset not in PRESETS:
        raise UserError(f"--preset {args.preset}: expected one of {', '.join(PRESETS)}")
    check_thickness("--thickness", args.thickness)
    if not args.file.is_file():
        raise UserError(f"{args.file} does not exist")
    preset = PRESETS.get(args.preset)
    terms = args.license or (preset and preset.license)
    if not terms:
        raise UserError("--license is needed: name the license of the weights as their author states it")
    weights = f"imported weights of {preset.model if preset else 'another program'}"
    net = import_network(args.file, _make_layout(args, preset), weights=weights, license=terms)
    write_bundle(
        net.metadata, net.state_dict(), args.out, model_card=render_markdown(make_imported_card(net.metadata))
    )
    print(f"wrote {net.metadata.model.backbone} of {args.file} to {args.out}, license {terms}")
    print(
        "It has no calibration and no operating point, so every study is INDETERMINATE (no_decision). To fit "
        f"both to studies with labels:\n  ich recalibrate {args.out} STUDIES --labels LABELS.csv\n"
        "It has no reference to its training data either, so no study becomes NEGATIVE (no_reference)."
    )


def _make_layout(args: argparse.Namespace, preset: Preset | None) -> Layout:
    """Merges the options over the settings of a preset."""
    from ich.models.foreign import Layout

    names = ("backbone", "labels", "decides", "channels", "link", "pool", "thickness")
    given = {name: getattr(args, name) for name in names}
    given["renamed"] = None if args.map is None else dict(args.map)
    given = {name: value for name, value in given.items() if value is not None}
    if preset is not None:
        return replace(preset.layout, **given, input=_make_spec(preset.layout.input, args.input))
    if missing := [name for name in ("backbone", "labels") if name not in given]:
        raise UserError(f"--{missing[0]} is needed: it cannot be read from {args.file}")
    lacking = set(_NEEDED) - dict(args.input).keys()
    if lacking:
        raise UserError(f"--input {min(lacking)}=... is needed: it cannot be read from {args.file}")
    return Layout(**given, input=_make_spec(InputSpec(), args.input))


def _make_spec(spec: InputSpec, pairs: Sequence[tuple[str, str]]) -> InputSpec:
    """Replaces fields of an input by texts in YAML."""
    import yaml

    from ich.schema.formats import read_plain

    known = [field.name for field in fields(InputSpec)]
    given: dict[str, Any] = {name: yaml.safe_load(text) for name, text in pairs}
    if unknown := set(given) - set(known):
        raise UserError(f"--input {min(unknown)} is not a setting; there are {', '.join(known)}")
    return read_plain(InputSpec, spec.to_dict() | given, "--input")
