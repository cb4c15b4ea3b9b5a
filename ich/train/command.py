"""The command line of a training: literal paths, help, and one message for each error."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from string import Template
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ich.schema import RENAMED, UserError
from ich.schema.exits import ExitCode
from ich.train.signatures import REPLACED, register_signatures

log = logging.getLogger("ich")

PATHS = (
    *("data.root", "data.labels", "data.study_labels", "data.index_dir", "data.cache", "data.split"),
    *("model.init_from", "model.weights_file", "lesions.bank", "run_dir", "ckpt_path"),
)
"""Settings that may name a file or a folder; ``pretrain`` has settings of the same names."""

VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}
"""Hydra 1.3 warns where it is not told whose defaults hold, and 1.4 where it is told."""

HELP = ("-h", "--help")
"""Arguments that ask for the help."""

_EXTRAS = {
    "hydra/launcher/joblib": "joblib",
    "hydra/launcher/submitit_slurm": "slurm",
    "hydra/launcher/ray": "ray-launcher",
    "hydra/sweeper/optuna": "optuna",
}
"""Extras of this package that bring a plugin of Hydra."""

_MOST_NEAR = 3  # names of settings in a message
_FEW = 20  # settings of a group that a message lists if none is near
_FULL_ERROR = "HYDRA_FULL_ERROR"
_MULTIRUN = ("-m", "--multirun")
_LEFT_OUT = "hydra.job.config.override_dirname.exclude_keys"
_WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p")
_WITH_CHOICE = ("--cfg", "--info", "--experimental-rerun")
_MEANING = re.compile(r"""|null|['"\[{].*|.*\$\{.*""", re.DOTALL)  # values that do not name files
_NOT_PLAIN = re.compile(r"(\\*)('|$)")
_UNKNOWN = re.compile(r"Could not override '([^']+)'")
_WRONG = re.compile(r"Error merging override (.*)")
_NO_KEY = re.compile(r"In '([^']+)': .*Key '([^']+)' not in '", re.DOTALL)
_AMBIGUOUS = re.compile(r"Ambiguous value for argument '(.*)'")


@contextmanager
def reading_arguments(conf: Path) -> Iterator[list[str]]:
    """Prepares the program's arguments for Hydra, and explains errors in one message.

    Inside this context, ``sys.argv`` is for Hydra.

    Args:
        conf: The folder of the configuration.

    Yields:
        The prepared arguments.

    Raises:
        SystemExit: With 2 for a wrong argument.
    """
    argv, full = list(sys.argv), os.environ.get(_FULL_ERROR)
    try:
        given = prepare_arguments(argv[1:])
        given += _leave_out_shared(given)
        os.environ[_FULL_ERROR] = "1"  # Hydra's own messages show its grammar, and end in 1
        sys.argv[1:] = given
        yield given
    except UserError as error:
        log.error("%s", error)  # noqa: TRY400 - one message, no traceback
        sys.exit(ExitCode.WRONG)
    except (HydraException, OmegaConfBaseException) as error:
        log.error("%s", explain(error, conf))  # noqa: TRY400
        sys.exit(ExitCode.WRONG)
    finally:
        sys.argv[:] = argv
        os.environ.pop(_FULL_ERROR, None)
        if full is not None:
            os.environ[_FULL_ERROR] = full


def prepare_arguments(arguments: Sequence[str]) -> list[str]:
    """Returns arguments that Hydra reads as intended.

    A value of ``PATHS`` is a literal path. In a multirun, a value with commas means several paths, unless it
    exists. Several jobs of one ``run_dir`` get folders in it.

    Raises:
        UserError: If an argument is not a setting, has dashes like an option, or its value needs quotes.
    """
    several = not set(_MULTIRUN).isdisjoint(arguments)
    items = list(_join_flags(arguments))
    for item in items:
        _refuse_dashes(item)
    return [item if item.startswith("-") else _prepare(_rename(item), several) for item in items]


def _leave_out_shared(items: Sequence[str]) -> list[str]:
    """Returns what keeps settings of all jobs of a multirun, and names of files, out of the jobs' names."""
    if set(_MULTIRUN).isdisjoint(items):
        return []
    parsed = [OverridesParser.create().parse_override(item) for item in items if not item.startswith("-")]
    swept = {each.key_or_group for each in parsed if each.is_sweep_override()}
    named = {key for key in swept if key.removeprefix("pretrain.") not in PATHS}
    given = [each.value() for each in parsed if each.key_or_group == _LEFT_OUT]
    own = {str(key) for keys in given for key in (keys if isinstance(keys, list) else [keys])}
    left_out = sorted(({each.key_or_group for each in parsed} - named) | own)
    return [f"{_LEFT_OUT}=[{','.join(map(quote, left_out))}]"]


def _join_flags(arguments: Sequence[str]) -> Iterator[str]:
    """Yields arguments, with the flags of Hydra joined to their values."""
    items = iter(arguments)
    for item in items:
        value = next(items, None) if item in _WITH_VALUE else None
        yield item if value is None else f"{item}={value}"


def _refuse_dashes(item: str) -> None:
    """Refuses a setting that is written like an option; Hydra would only list its own options."""
    key, equals, _ = item.partition("=")
    if key.startswith("--") and ("." in key or equals) and key not in (*_WITH_VALUE, *_WITH_CHOICE):
        raise UserError(f"{item} is not an option: write a setting without dashes, as {item.lstrip('-')}")


def _rename(item: str) -> str:
    """Renames a setting or a file from its name in the last version."""
    key, _, value = item.partition("=")
    group, _, name = key.rpartition(".")
    if group.lstrip("+").removeprefix("pretrain.") == "input" and name in RENAMED:
        renamed = f"{group}.{RENAMED[name]}={value}"
    elif key == "input" and value in RENAMED:
        renamed = f"input={RENAMED[value]}"
    else:
        return item
    log.warning("%s is now %s; the next version will not accept the old name", item, renamed)
    return renamed


def _prepare(item: str, several: bool) -> str:
    key, equals, value = item.partition("=")
    plain = key.lstrip("+").removeprefix("pretrain.")
    if equals and plain in PATHS and _is_path(value):
        swept = several and "," in value and not Path(value).exists()
        if swept and plain == "run_dir":
            raise UserError(
                f"{item}: a multirun has one folder, in which each job gets a subfolder named by its "
                "settings; give one folder"
            )
        values = value.split(",") if swept else [value]
        item = f"{key}={','.join(map(quote, values))}"
    if several and key == "run_dir":
        item = f"hydra.sweep.dir={item.partition('=')[2]}"
    _require_grammar(item)
    return item


def _is_path(value: str) -> bool:
    return not _MEANING.fullmatch(value) or (value not in ("", "null") and Path(value).exists())


def quote(value: str) -> str:
    """Quotes a text so that Hydra reads it literally."""
    return "'" + _NOT_PLAIN.sub(lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"


def _require_grammar(item: str) -> None:
    key, equals, value = item.partition("=")
    if not equals and not key.startswith("~"):
        meant = f"data.root={item}" if Path(item).exists() else f"{item}=VALUE"
        raise UserError(
            f"{item} is not a setting: expected KEY=VALUE without spaces, for instance {meant}; "
            "--help lists all"
        )
    try:
        OverridesParser.create().parse_override(item)
    except HydraException as error:
        raise UserError(
            f"{item} cannot be read: put quotes around the value and around the whole argument, as in "
            f'"{key}={quote(value)}"'
        ) from error


def parse_overrides(items: Iterable[str]) -> DictConfig:
    """Returns the settings of command-line overrides."""
    changed = OmegaConf.create()
    for item in items:
        override = OverridesParser.create().parse_override(item)
        OmegaConf.update(changed, override.key_or_group, override.value())
    return changed


def answer_help(conf: Path, given: Sequence[str]) -> None:
    """Prints the help, with the settings as the other arguments change them."""
    register_signatures(kept=True)
    print(describe_settings(conf, [item for item in given if not item.startswith("-")]))


def describe_settings(conf: Path, overrides: Sequence[str]) -> str:
    """Returns the help: the groups with their files, and every setting with its value."""
    cfg = _compose(conf, overrides, whole=True)
    settings = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    groups = [
        f"{folder.name}: {', '.join(sorted(file.stem for file in folder.glob('*.yaml')))}"
        for folder in sorted(conf.iterdir())
        if folder.is_dir()
    ]
    return Template(cfg.hydra.help.template).substitute(
        APP_CONFIG_GROUPS="\n".join(groups), CONFIG=OmegaConf.to_yaml(settings)
    )


def _compose(conf: Path, overrides: Sequence[str], whole: bool = False) -> DictConfig:
    GlobalHydra.instance().clear()  # what a call that failed has left
    with initialize_config_dir(str(conf.absolute()), **VERSION_BASE):
        return compose("config", list(overrides), return_hydra_config=whole)


def explain(error: Exception, conf: Path) -> str:
    """Explains an error in the arguments, and suggests the nearest valid ones.

    Args:
        error: The error from Hydra or OmegaConf.
        conf: The folder of the configuration.
    """
    text = str(error)
    if isinstance(error, MissingConfigException) and (extra := _EXTRAS.get(str(error.missing_cfg_file))):
        return f"{error.missing_cfg_file} is not installed: pip install 'ich[{extra}]'"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _explain_file(*str(error.missing_cfg_file).rpartition("/")[::2], conf)
    if found := _AMBIGUOUS.search(text):
        key, _, value = found[1].partition("=")
        return f"{found[1]}: for a list write '{key}=[{value}]'; for one run per value, add -m"
    if (found := _NO_KEY.search(text)) and (new := RENAMED.get(found[2])):
        return f"{found[1]}.yaml: {found[2]} is now {new}; rename it"
    if found := _UNKNOWN.search(text):
        return refuse_setting(found[1], _list_settings(conf))
    if found := _WRONG.match(text):
        reason = str(error.__cause__ or text.partition("\n")[2]).strip().partition("\n")[0]
        return f"{found[1]}: {reason}"
    return " ".join(text.split("\n")[:2]) or type(error).__name__


def _explain_file(group: str, name: str, conf: Path) -> str:
    known = sorted(path.stem for path in (conf / group).glob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=1)
    message = f"{group}={name}: there is no such file; there {'are' if known else 'is no group, but'} "
    message += ", ".join(known) if known else f"{group}.KEY=VALUE"
    if group == "model":
        import timm  # it takes seconds

        if timm.is_model(name):
            return f"{message}. For any timm model, use its name: model.backbone={name}"
    return f"{message}; nearest is {group}={near[0]}" if near else message


def _list_settings(conf: Path) -> list[str]:
    """Lists all settings and groups."""
    settings = OmegaConf.to_container(_compose(conf, []))
    return [*_flatten(settings), *(path.name for path in conf.iterdir() if path.is_dir())]


def _flatten(settings: Any, prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")


def refuse_setting(key: str, known: Sequence[str]) -> str:
    """Says that there is no such setting, and what replaces it or is near."""
    replaced = REPLACED.get(key.removeprefix("trainer.")) if key.startswith("trainer.") else None
    return f"{key} is not a setting{f': {replaced}' if replaced else f'; {suggest(key, known)}'}"


def suggest(key: str, known: Sequence[str]) -> str:
    """Names the settings nearest to an unknown one: with its own name first, then those of its group.

    If none of a small group is near, all of it is named.
    """
    last = {name.rpartition(".")[2]: name for name in reversed(known)}
    group, _, own = key.rpartition(".")
    beside = [name.rpartition(".")[2] for name in known if name.rpartition(".")[0] == group]
    near = [last[own]] if own in last else []
    near += [f"{group}.{name}".lstrip(".") for name in difflib.get_close_matches(own, beside, n=_MOST_NEAR)]
    if group and not near and 0 < len(beside) <= _FEW:
        return f"{group} has {', '.join(beside)}; --help lists all"
    near += [last[name] for name in difflib.get_close_matches(own, last, n=1)]
    near = list(dict.fromkeys(near or difflib.get_close_matches(key, known, n=1)))[:_MOST_NEAR]
    others = f", then {', '.join(near[1:])}" if len(near) > 1 else ""
    return f"nearest is {near[0]}{others}; --help lists all" if near else "--help lists all"


def require_known_settings(cfg: DictConfig, schemas: Mapping[str, Set[str]]) -> None:
    """Refuses settings of a group that its target does not accept.

    Args:
        cfg: The configuration.
        schemas: Names of settings by ``_target_``.

    Raises:
        UserError: If there is one, with the nearest valid setting.
    """
    for group, node in ((str(key), node) for key, node in cfg.items()):
        names = schemas.get(node.get("_target_")) if isinstance(node, DictConfig) else None
        for name in sorted(set(map(str, node)) - names) if names else ():
            raise UserError(
                refuse_setting(f"{group}.{name}", sorted(f"{group}.{known}" for known in names or ()))
            )
