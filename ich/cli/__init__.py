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

COMMANDS = (
    "index",
    "phantom",
    "explore",
    "evaluate",
    "explain",
    "predict",
    "recalibrate",
    "bundle",
    "import",
    "export",
    "generate",
    "serve",
)
"""All commands except ``train``. A module is imported only if its command is given, or to list them all."""


def main() -> None:
    """Runs ``ich`` with its command-line arguments. A user's error ends in one message and exit code 2."""
    if sys.argv[1:2] == ["train"]:
        # Hydra reads the rest, including ``--help``. It takes seconds to import, so other commands do not.
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
        "train",
        help="train a model with key=value ..., as train.py does; `ich train --help` lists all settings",
    )
    for name in given if set(given) & set(COMMANDS) else COMMANDS:
        import_module(f"ich.cli.{name}{'_' * iskeyword(name)}").add_command(commands)
    return parser
