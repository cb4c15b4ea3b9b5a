"""Files and folders at an address, such as ``s3://bucket/folder``, through fsspec.

A path on the disk stays a ``pathlib.Path``, and reading it does not pass through here.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+(://|::)")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")
_VERSIONS = ("ETag", "etag", "md5Hash", "crc32c", "generation")
_BLOCK = 1 << 14  # bytes that opened files read at least: a header and what is around it
_PACKAGES = {"s3": "pip install 'ich[remote]'", "gs": "pip install gcsfs", "gcs": "pip install gcsfs"}
_UNREACHED = re.compile(r"connect|timeout|resolve|endpoint|dns", re.IGNORECASE)
_RIGHTS = (
    "check its credentials: for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile in ~/.aws; for "
    "Google GOOGLE_APPLICATION_CREDENTIALS"
)


class RemoteError(OSError):
    """A file or folder at an address that cannot be read or written.

    Its text names the address; ``strerror`` says only what is wrong, and what to do.
    """

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


class MissingError(RemoteError, FileNotFoundError):
    """There is nothing at an address."""


class Entry(NamedTuple):
    """A file below a folder."""

    name: str  # relative to the folder
    size: int  # bytes; -1 if unknown
    changed: int  # time of change in ns, or another number that changes with the file


class Span(NamedTuple):
    """A part of a file."""

    name: str  # relative to a folder
    start: int  # bytes
    stop: int


def is_address(text: str) -> bool:
    """Whether a text is an address and not a path on the disk."""
    return ":" in text and _ADDRESS.match(text) is not None


def parse_path(text: str | os.PathLike[str]) -> AnyPath:
    """Returns what a text names: a path on the disk, or an address."""
    text = os.fspath(text)
    return RemotePath(text) if is_address(text) else Path(text)


class RemotePath:
    """A file or folder at an address, with the few methods of ``pathlib.Path`` that reading needs.

    The connection is made on first use, and again in a process that was forked.

    Args:
        address: The address.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") if not address.endswith("://") else address
        self._opened: tuple[int, Any, str] | None = None  # process, file system of fsspec, path in it

    def __str__(self) -> str:
        return self.address

    def __fspath__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"RemotePath({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __lt__(self, other: RemotePath) -> bool:
        return self.address < other.address

    def __reduce__(self) -> tuple[type[RemotePath], tuple[str]]:
        return RemotePath, (self.address,)  # another process connects itself

    def __truediv__(self, name: str) -> RemotePath:
        below = RemotePath(f"{self.address}/{name}" if name else self.address)
        if self._opened is not None:
            process, system, path = self._opened
            below._opened = process, system, f"{path}/{name}" if name else path
        return below

    @property
    def name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(self.address).name

    def exists(self) -> bool:
        """Whether there is such a file or folder.

        Raises:
            RemoteError: If that cannot be found out.
        """
        with self._explaining():
            return bool(self._connect()[0].exists(self._connect()[1]))

    def is_file(self) -> bool:
        """Whether there is such a file."""
        with self._explaining():
            return bool(self._connect()[0].isfile(self._connect()[1]))

    def open(self, mode: str = "rb", *, size: int | None = None) -> io.BufferedReader:
        """Opens a file for reading. It fetches parts as they are read.

        Args:
            mode: Only ``rb``.
            size: Size of the file, bytes, which saves a request.

        Raises:
            RemoteError: If it cannot be read.
        """
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}, expected 'rb'")
        if size is None:
            system, path = self._connect()
            with self._explaining():
                size = _find_size(system.info(path))
        return io.BufferedReader(_Ranges(self, size), _BLOCK)

    def read_bytes(self, start: int | None = None, stop: int | None = None) -> bytes:
        """Reads a file, or a part of it; fewer bytes where the file ends.

        Raises:
            RemoteError: If it cannot be read.
        """
        system, path = self._connect()
        with self._explaining():
            return bytes(system.cat_file(path, start=start, end=stop))

    def write_bytes(self, content: bytes | bytearray | memoryview) -> None:
        """Writes a file, completely or not at all.

        Raises:
            RemoteError: If it cannot be written.
        """
        system, path = self._connect()
        with self._explaining():
            system.pipe_file(path, bytes(content))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yields the files of a folder whose names match a pattern, sorted.

        Raises:
            RemoteError: If the folder cannot be listed.
        """
        system, path = self._connect()
        with self._explaining():
            found = sorted(system.glob(f"{path}/{pattern}"))
        yield from (self / PurePosixPath(name).name for name in found)

    def list_files(self) -> list[Entry]:
        """Lists all files below a folder, as they are now; none if there is no such folder.

        The name of a file is empty if this is the file itself.

        Raises:
            RemoteError: If it cannot be listed.
        """
        system, path = self._connect()
        with self._explaining():
            system.invalidate_cache()
            found = system.find(path, detail=True)
            system.invalidate_cache()  # which holds about a kilobyte for each file
        own = path.strip("/")
        return [
            Entry(name.strip("/").removeprefix(own).lstrip("/"), _find_size(info), _find_change(info))
            for name, info in sorted(found.items())
            if f"{name.strip('/')}/".startswith(f"{own}/")
        ]

    def fetch(self, spans: Sequence[Span]) -> list[bytes | None]:
        """Fetches parts of files below this folder, at the same time.

        Returns:
            The bytes of each part, fewer where its file ends; None where it cannot be read.
        """
        if not spans:
            return []
        system, path = self._connect()
        names, starts, stops = zip(*spans, strict=True)
        with self._explaining():
            found = system.cat_ranges(
                [f"{path}/{name}" for name in names], list(starts), list(stops), on_error="return"
            )
        return [bytes(part) if isinstance(part, bytes | bytearray) else None for part in found]

    def _connect(self) -> tuple[Any, str]:
        """Returns the file system of fsspec, of this process, and the path in it."""
        if self._opened is None or self._opened[0] != os.getpid():
            with self._explaining():
                import fsspec.core

                system, path = fsspec.core.url_to_fs(self.address)
            self._opened = os.getpid(), system, path.rstrip("/")
        return self._opened[1], self._opened[2]

    @contextmanager
    def _explaining(self) -> Iterator[None]:
        """Turns any failure into a ``RemoteError``. Each file system raises errors of its own."""
        try:
            yield
        except RemoteError:
            raise
        except Exception as error:
            kind = MissingError if isinstance(error, FileNotFoundError) else RemoteError
            number = getattr(error, "errno", None) or errno.EIO
            raise kind(number, _explain(error, self.address), self.address) from error


AnyPath = Path | RemotePath
"""A file or folder, on the disk or at an address."""


class _Ranges(io.RawIOBase):
    """A file at an address, each read of which is a request."""

    def __init__(self, path: RemotePath, size: int) -> None:
        self._path, self._size, self._place = path, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        self._place = max(0, start + offset)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        stop = min(self._place + len(buffer), self._size)
        if stop <= self._place:
            return 0
        found = self._path.read_bytes(self._place, stop)
        buffer[: len(found)] = found
        self._place += len(found)
        return len(found)


def _find_size(info: dict[str, Any]) -> int:
    size = info.get("size")
    return -1 if size is None else int(size)


def _find_change(info: dict[str, Any]) -> int:
    """Finds when a file was changed, in ns; without a time a number that its version determines."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, str):
            try:
                value = datetime.fromisoformat(value)
            except ValueError:
                continue
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
            return int(value.timestamp() * 1e6) * 1000
        if isinstance(value, int | float):
            return int(value * 1e6) * 1000
    version = "|".join(str(info[key]) for key in _VERSIONS if info.get(key))
    return int.from_bytes(hashlib.blake2b(version.encode(), digest_size=7).digest())


def _explain(error: Exception, address: str) -> str:
    """Says what is wrong with an address, and what to do."""
    kind, text = type(error).__name__, " ".join(str(error).split())
    protocol = address.split("::", 1)[-1].split("://", 1)[0]
    if isinstance(error, ImportError):
        remedy = _PACKAGES.get(protocol, "install the package of fsspec for it")
        return f"the package for {protocol}:// is not installed: {remedy}"
    if isinstance(error, ValueError) and "rotocol not known" in text:
        return f"fsspec knows no addresses that begin with {protocol}://: check the spelling"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket, folder or file: check the spelling"
    if isinstance(error, PermissionError) or "Credential" in kind:
        return f"access is not permitted ({text or kind}): {_RIGHTS}"
    if isinstance(error, ConnectionError | TimeoutError) or _UNREACHED.search(kind):
        return (
            f"the server cannot be reached ({text or kind}): check the network, and AWS_ENDPOINT_URL for S3"
        )
    return f"{kind}: {text}" if text else kind
