"""``ich serve``: the service beside a PACS."""

from __future__ import annotations

import argparse
import getpass
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ich.schema import DISCLAIMER, UserError
from ich.schema.exits import ExitCode

if TYPE_CHECKING:  # its packages are an extra
    from ich.serve.settings import Settings

_EXAMPLES = f"""\
What it does: it receives studies over DICOM, waits until each is complete, reads the series of the head,
and sends a DICOM report and key images to the nodes of its settings. It shows a worklist on a page.

What it needs: a model with an operating point (`ich recalibrate` fits one), and a folder of its own, which
holds the received objects, the results and the queue.

examples:

  ich serve --bundle model.zip --inbox /data/ich                 a first try, on this machine only
  ich serve --init serve.yaml --bundle model.zip --inbox /data/ich   all settings, with comments
  ich serve --config serve.yaml --check                          what is wrong with them
  ich serve --config serve.yaml --account alice --role administer    asks for a password
  ich serve --config serve.yaml                                  runs until Ctrl-C or SIGTERM

A new model: replace the file of the model. Readers with the new model take over once they have loaded it.
SIGHUP does so too.

exit codes:

  {ExitCode.DONE}  ended by SIGTERM or Ctrl-C, or what was asked for is done
  {ExitCode.WRONG}  wrong usage or settings; nothing was received

{DISCLAIMER}."""


def add_command(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Adds the command to a parser, with its line in the list of all commands."""
    parser = commands.add_parser(
        "serve",
        help=summary,
        usage="ich serve --config FILE [--check | --account NAME [--role ROLE] | --audit]\n"
        "       ich serve --bundle MODEL --inbox DIR [--port N] [--web-port N] [--watch DIR]\n"
        "                 [--check | --account NAME [--role ROLE] | --audit]\n"
        "       ich serve --init FILE [--bundle MODEL] [--inbox DIR]",
        description="Runs the service beside a PACS.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--init", type=Path, metavar="FILE", help="write the settings, with comments, and end")
    what.add_argument("--check", action="store_true", help="say all that is wrong with the settings, and end")
    what.add_argument(
        "--account",
        metavar="NAME",
        help="add an account for the pages, ask for its password, and end",
    )
    what.add_argument("--audit", action="store_true", help="print the audit log as lines of JSON, and end")
    parser.add_argument(
        "--role",
        choices=("view", "judge", "administer"),
        default="view",
        help="of --account (default: %(default)s)",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings of --init, a YAML file")
    first = parser.add_argument_group("instead of --config, for a first try")
    first.add_argument("--bundle", metavar="MODEL", help="a bundle, checkpoint or ONNX file")
    first.add_argument("--inbox", metavar="DIR", help="folder for all that the service keeps")
    first.add_argument("--port", type=int, metavar="N", help="port for DICOM (default: 11112)")
    first.add_argument("--web-port", type=int, metavar="N", help="port of the pages (default: 8042)")
    first.add_argument(
        "--watch", action="append", metavar="DIR", help="a folder whose files are taken in too (repeatable)"
    )
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> ExitCode:
    try:
        import ich.serve.store  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"ich serve needs pip install 'ich[serve]': {error.name} is not installed") from error
    if args.init is not None:
        return _write(args)
    settings, source = _read(args)
    if args.account is not None:
        return _add_account(settings, args.account, args.role)
    if args.audit:
        return _print_audit(settings)
    return _serve(settings, source, only_check=args.check)


def _write(args: argparse.Namespace) -> ExitCode:
    from ich.serve.settings import write_settings

    if args.config is not None:
        raise UserError("--init writes new settings and reads none: leave out --config")
    write_settings(args.init, args.bundle or "model.zip", args.inbox or "ich-serve")
    print(f"{args.init} is written; edit it, then: ich serve --config {args.init} --check")
    return ExitCode.DONE


def _read(args: argparse.Namespace) -> tuple[Settings, str]:
    """Reads the settings; returns how messages name them too."""
    from ich.serve.settings import make_settings, read_settings

    given = {name: getattr(args, name) for name in ("bundle", "inbox", "port", "web_port", "watch")}
    given = {name: value for name, value in given.items() if value is not None}
    if args.config is not None:
        if given:
            option = next(iter(given)).replace("_", "-")
            raise UserError(f"--{option} cannot be given with --config: set it in {args.config}")
        return read_settings(args.config), str(args.config)
    if "bundle" not in given or "inbox" not in given:
        raise UserError(
            "give --config FILE, or --bundle MODEL and --inbox DIR; `ich serve --init` writes a file"
        )
    receive: dict[str, Any] = {"folders": given.get("watch", [])}
    if "port" in given:
        receive["port"] = given["port"]
    web = {"port": given["web_port"]} if "web_port" in given else {}
    source = "command line"
    found = {"bundle": given["bundle"], "folder": given["inbox"], "receive": receive, "web": web}
    return make_settings(found, source), source


def _print_audit(settings: Settings) -> ExitCode:
    from ich.serve.store import open_store
    from ich.serve.upkeep.audit import export_events

    store = open_store(settings.store)
    try:
        with store.view() as connection:
            for line in export_events(connection, settings.audit):
                print(line)
    finally:
        store.close()
    return ExitCode.DONE


def _add_account(settings: Settings, name: str, role: str) -> ExitCode:
    from ich.serve.states import Role
    from ich.serve.store import open_store
    from ich.serve.web import add_account

    if sys.stdin.isatty():
        password = getpass.getpass(f"Password for {name}: ")
        if getpass.getpass("Again: ") != password:
            raise UserError("the two passwords differ; run the command again")
    else:
        password = sys.stdin.readline().rstrip("\n")
    store = open_store(settings.store)
    try:
        add_account(store, name, password, Role(role), time.time(), actor="command line")
    finally:
        store.close()
    print(f"{name} may {role}")
    return ExitCode.DONE


def _serve(settings: Settings, source: str, *, only_check: bool) -> ExitCode:
    from ich.files import permitting
    from ich.log import start_log
    from ich.serve.checks import require_working
    from ich.serve.store import open_store
    from ich.serve.supervisor import Supervisor, holding

    if not only_check:
        # It asks for the model to be loaded again. It would end a service that does not listen for it yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with permitting(settings.mode), holding(settings):
        require_working(settings, source)
        if only_check:
            print(f"{source}: nothing is wrong")
            return ExitCode.DONE
        start_log("supervisor", settings.log)
        receive, web = settings.receive, settings.web
        scheme = "http" if web.tls is None else "https"
        print(f"receives at {receive.host}:{receive.port} as {receive.ae_title}", flush=True)
        print(f"shows pages at {scheme}://{web.host}:{web.port}", flush=True)
        print(f"{DISCLAIMER}.", flush=True)
        store = open_store(settings.store)
        try:
            Supervisor(settings, store).run()
        finally:
            store.close()
    return ExitCode.DONE
