"""The command ``ich``. Each of its commands is a module here."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from keyword import iskeyword

from rich.console import Console
from rich.markup import escape

from ich import __version__
from ich.progress.printing import printing
from ich.schema import DISCLAIMER, UserError
from ich.schema.exits import ExitCode

COMMANDS = {
    "demo": "show the whole way without data: train on synthetic head CT, read studies, open the results",
    "train": "train a model with key=value ..., as train.py does; `ich train --help` lists all settings",
    "sweep": "rank the jobs of a multirun, and show which settings matter",
    "index": "read the headers of a folder of DICOM files into a table",
    "shard": "write the slices of a data set with their labels to a few large files, for any disk or store",
    "phantom": "write synthetic head CT with hemorrhages as DICOM files",
    "explore": "look at a data set: headers, labels, Hounsfield units, slices, and what stands out",
    "evaluate": "evaluate predictions: a report, figures as JSON, a model card, the CLAIM checklist",
    "explain": "show where in a slice a model finds the evidence for a label",
    "predict": "read studies: is there a hemorrhage, of which kind, where, and how sure is the model",
    "recalibrate": "fit calibration and operating points of a model to the studies of a site",
    "quantize": "write a model in int8, which a CPU computes faster, and show what that changes",
    "bundle": "write a trained model, or several as an ensemble, to one file to share",
    "import": "make a bundle of the weights of another program",
    "export": "write a trained model as ONNX, which takes Hounsfield units and needs no PyTorch",
    "generate": "learn the lesions of a data set and write new ones, to be painted in training",
    "doctor": "say what this machine has, what will limit a run on it, and which settings fit",
    "serve": "run beside a PACS: receive studies, read them, send answers, show a worklist",
}
"""All commands, with what each does. The module of a command is imported only if the command is given."""


def main() -> None:
    """Runs ``ich`` with its command-line arguments. A user's error ends in one message and exit code 2."""
    if sys.argv[1:2] == ["train"]:
        # Hydra reads the rest, including ``--help``. It takes seconds to import, so other commands do not.
        from ich.train import main as train

        sys.argv = [f"{sys.argv[0]} train", *sys.argv[2:]]
        return train()
    with printing():
        args = _make_parser(sys.argv[1:]).parse_args()
        try:
            sys.exit(args.run(args) or ExitCode.DONE)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            sys.exit(ExitCode.INTERRUPTED)
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            Console(stderr=True).print(
                f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True
            )
            sys.exit(ExitCode.WRONG)
    return None


def _make_parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ich",
        description="Detects intracranial hemorrhage in head CT and names its subtypes.",
        epilog=f"{DISCLAIMER}.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = next((word for word in words if not word.startswith("-")), None)
    for name, summary in COMMANDS.items():
        if name == given and name != "train":
            import_module(f"ich.cli.{name}{'_' * iskeyword(name)}").add_command(commands, summary)
        else:
            commands.add_parser(name, help=summary)
    return parser
