"""Parts of files at an address, fetched together before they are read one by one."""

from __future__ import annotations

from collections.abc import Sequence

from ich.remote import RemoteError, RemotePath, Span

_MOST = 128  # parts that are asked for at the same time


class Fetcher:
    """Fetches the parts that a thread is about to read, because a server answers many as fast as one.

    Args:
        root: Folder of the files.
    """

    def __init__(self, root: RemotePath) -> None:
        self.root = root
        self._found: dict[Span, bytes | None] = {}

    def expect(self, spans: Sequence[Span]) -> None:
        """Fetches parts that are read next, and forgets those of the last call."""
        wanted = list(dict.fromkeys(spans))
        self._found = {span: part for span in wanted if (part := self._found.get(span)) is not None}
        missing = [span for span in wanted if span not in self._found]
        for start in range(0, len(missing), _MOST):
            self._fetch(missing[start : start + _MOST])

    def take(self, span: Span) -> bytes | None:
        """Returns a part of a file; None if it cannot be read, or the file is shorter."""
        if span not in self._found:
            self.expect([span])
        return self._found[span]

    def _fetch(self, spans: Sequence[Span]) -> None:
        try:
            parts = self.root.fetch(spans)
        except RemoteError:  # reading the file itself says why
            parts = [None] * len(spans)
        for span, part in zip(spans, parts, strict=True):
            is_whole = part is not None and len(part) == span.stop - span.start
            self._found[span] = part if is_whole else None
