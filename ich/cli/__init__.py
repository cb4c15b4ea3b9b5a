"""The command ``ich``: its commands, a module each."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from rich.console import Console
from rich.markup import escape

from ich import __version__
from ich.printing import printing
from ich.schema import DISCLAIMER, UserError

COMMANDS = ("index", "phantom", "explore", "evaluate", "explain", "predict", "bundle", "export")
"""Beside ``train``: each is a module here, imported where its command is given or all are listed."""


def main() -> None:
    """Runs ``ich`` with the arguments of the command line; a user's error is one message and exit code 2."""
    if sys.argv[1:2] == ["train"]:
        # Hydra reads the rest, ``--help`` included; it takes seconds to import, which the others are spared.
        from ich.train import main as train

        sys.argv = [f"{sys.argv[0]} train", *sys.argv[2:]]
        return train()
    with printing():
        args = _make_parser(sys.argv[1:2]).parse_args()
        try:
            sys.exit(args.run(args) or 0)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted")
            sys.exit(130)
        except BrokenPipeError:
            raise
        except (UserError, OSError) as error:
            Console(stderr=True).print(
                f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True
            )
            sys.exit(2)
    return None


def _make_parser(given: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ich",
        description="Detects intracranial hemorrhage in head CT and names its subtypes.",
        epilog=f"{DISCLAIMER}.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "train", help="train a model: key=value ..., as train.py; `ich train --help` lists what to set"
    )
    for name in given if set(given) & set(COMMANDS) else COMMANDS:
        import_module(f"ich.cli.{name}").add_command(commands)
    return parser
