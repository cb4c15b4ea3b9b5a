"""A PostgreSQL server for tests: one that a variable of the environment names, or one of the tests' own."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VARIABLE = "ICH_TEST_POSTGRES"
"""Names a server whose user may make databases, such as ``postgresql://me@127.0.0.1/postgres``."""


@contextmanager
def start_server() -> Iterator[str]:
    """Gives the address of a server, without a database's name; skips the test where there is none."""
    pytest.importorskip("psycopg", reason="needs pip install 'ich[postgres]'")
    if given := os.environ.get(VARIABLE):
        yield given.rpartition("/")[0]
        return
    programs = _find_programs()
    if programs is None:
        pytest.skip(f"PostgreSQL is not installed (Debian: postgresql), and {VARIABLE} names none")
    user = _find_user()
    with tempfile.TemporaryDirectory(prefix="pg") as folder:  # short: it holds a socket
        if user is not None:
            shutil.chown(folder, user)
        data, control = f"{folder}/data", str(programs / "pg_ctl")
        _call([str(programs / "initdb"), "-D", data, "-U", "me", "-A", "trust", "--no-sync"], user, folder)
        options = f"-c listen_addresses='' -k {folder} -F -c shared_buffers=16MB"
        _call([control, "start", "-D", data, "-w", "-l", f"{folder}/log", "-o", options], user, folder)
        try:
            yield f"postgresql://me@/?host={folder}"
        finally:
            _call([control, "stop", "-D", data, "-m", "immediate"], user, folder)


@contextmanager
def make_database(server: str) -> Iterator[str]:
    """Gives the address of a new database, and removes it in the end."""
    import psycopg

    name = f"ich_{secrets.token_hex(6)}"
    with psycopg.connect(_name_database(server, "postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield _name_database(server, name)
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _name_database(server: str, name: str) -> str:
    place, _, options = server.partition("?")
    return f"{place.rstrip('/')}/{name}" + (f"?{options}" if options else "")


def _find_programs() -> Path | None:
    if found := shutil.which("pg_ctl"):
        return Path(found).parent
    known = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
    return known[-1].parent if known else None


def _find_user() -> str | None:
    """The account that runs the server: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        pytest.skip("PostgreSQL does not run as root, and there is no account postgres")


def _call(command: list[str], user: str | None, folder: str) -> None:
    done = subprocess.run(
        command,
        user=user,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=120,
        text=True,
    )
    assert done.returncode == 0, done.stderr
