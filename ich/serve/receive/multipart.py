"""Takes a multipart body apart (RFC 2046 5.1) as it comes, without a part in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

_MOST_BOUNDARY = 200  # characters; RFC 2046 allows 70
_Piece = bytes | None  # None is the end of a part


class BadBodyError(Exception):
    """A body is not what its header says."""


def find_boundary(content_type: str) -> str | None:
    """Returns the boundary of a multipart body of DICOM files (PS3.18 8.6.1.2.1), or None."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    is_dicom = options.get(b"type", b"application/dicom").lower() == b"application/dicom"
    if kind != b"multipart/related" or not is_dicom or not 0 < len(boundary) <= _MOST_BOUNDARY:
        return None
    return boundary.decode("latin-1")


def split_parts(chunks: Iterable[bytes], boundary: str) -> Iterator[Iterator[bytes]]:
    """Yields each part as an iterator over its pieces; what is not read of a part is skipped.

    Raises:
        BadBodyError: If the body cannot be taken apart, or ends too early.
    """
    pieces = _split(chunks, boundary)
    while (first := next(pieces, None)) is not None:
        part = _read_part(first[0], pieces)
        yield part
        for _ in part:
            pass


def _read_part(first: _Piece, pieces: Iterator[tuple[_Piece]]) -> Iterator[bytes]:
    piece = first
    while piece is not None:
        yield piece
        if (following := next(pieces, None)) is None:
            raise BadBodyError("a part is cut off")
        (piece,) = following


def _split(chunks: Iterable[bytes], boundary: str) -> Iterator[tuple[_Piece]]:
    found: deque[tuple[_Piece]] = deque()
    is_complete = []
    parser = MultipartParser(
        boundary.encode("latin-1"),
        {
            "on_part_data": lambda data, start, end: found.append((data[start:end],)),
            "on_part_end": lambda: found.append((None,)),
            "on_end": lambda: is_complete.append(True),
        },
    )
    for chunk in chunks:
        try:
            parser.write(chunk)
        except MultipartParseError as error:
            raise BadBodyError("its parts cannot be found") from error
        while found:
            yield found.popleft()
    if not is_complete:
        raise BadBodyError("it ends too early")
