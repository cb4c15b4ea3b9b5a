"""Which versions of packages are installed."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from ich import __version__


def list_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Lists the versions of this package and of others; None for one that is not installed."""
    return {"ich": __version__, **{name: _find_version(name) for name in packages}}


def _find_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
