"""The database of the service: SQLite in a file, or PostgreSQL where several machines share the work.

Its functions take an open connection, so that a caller decides what is one transaction. ``tables`` describes
the tables, and ``versions`` holds the migrations. The other modules ask and change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, func, select
from sqlalchemy.engine import Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from ich.schema import UserError

BUSY_SECONDS = 30
"""How long a transaction waits for another process before it fails."""

UPGRADE_LOCK = 0x696368
"""Number of the lock that a process holds in PostgreSQL while it creates or upgrades the tables."""

_PRIVATE = 0o600
"""Permissions of the database at any ``mode`` of the settings: it holds sessions and hashes of passwords."""

_READS = "only_reads"  # option of a connection


class Store:
    """An open database.

    Args:
        engine: The engine of SQLAlchemy.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction that may write. It is on the disk when the context ends, and undone on an error."""
        with self._engine.begin() as connection:
            yield connection

    @contextmanager
    def view(self) -> Iterator[Connection]:
        """A transaction that only reads. It waits for no writer, and no writer waits for it."""
        with self._engine.connect() as connection, connection.execution_options(**{_READS: True}).begin():
            yield connection

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()


def open_store(address: str, *, busy_seconds: float = BUSY_SECONDS) -> Store:
    """Opens a database, and creates or upgrades its tables.

    Args:
        address: A path of an SQLite file, or ``postgresql://USER@HOST/NAME``.
        busy_seconds: How long a transaction waits for another process before it fails.

    Raises:
        UserError: If it cannot be opened, or a newer version of ich made it.
    """
    try:
        engine = _make_engine(address, busy_seconds)
        try:
            _upgrade(engine, address)
        except BaseException:
            engine.dispose()
            raise
    except (SQLAlchemyError, ImportError, OSError) as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise UserError(f"queue={hide_password(address)} cannot be opened: {reason}") from error
    return Store(engine)


def hide_password(address: str) -> str:
    """Returns an address for messages."""
    try:
        return make_url(address).render_as_string(hide_password=True) if "://" in address else address
    except ArgumentError:
        return "(an address that cannot be read)"


def _make_engine(address: str, busy_seconds: float) -> Engine:
    if "://" not in address:
        path = Path(address)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(_PRIVATE)  # SQLite gives the files beside it the same permissions
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": busy_seconds})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_immediately)
        return engine
    if not address.startswith("postgresql://"):
        raise UserError(
            f"queue={hide_password(address)}: expected a path of an SQLite file or postgresql://USER@HOST/NAME"
        )
    try:
        address = "postgresql+psycopg://" + address.removeprefix("postgresql://")
        return create_engine(address, pool_pre_ping=True, connect_args={"connect_timeout": BUSY_SECONDS})
    except (ImportError, NoSuchModuleError) as error:
        raise UserError("queue=postgresql://... needs pip install 'ich[postgres]'") from error


def _prepare_sqlite(connection: Any, _: Any) -> None:
    """Sets a journal that readers need not wait for, and a commit that waits for the disk."""
    connection.isolation_level = None  # transactions begin where SQLAlchemy says so, see _begin_immediately
    for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {setting}")


def _begin_immediately(connection: Connection) -> None:
    """Takes the lock for writing first. A transaction that takes it later fails if another one wrote."""
    only_reads = connection.get_execution_options().get(_READS, False)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")


def _upgrade(engine: Engine, address: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    newest = ScriptDirectory.from_config(config)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":  # several processes start at once, and one makes the tables
            connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
        found = MigrationContext.configure(connection).get_current_revision()
        known = {revision.revision for revision in newest.walk_revisions()}
        if found is not None and found not in known:
            raise UserError(
                f"queue={hide_password(address)} was made by a newer version of ich ({found}); upgrade ich"
            )
        if found != newest.get_current_head():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
