"""Parts of files at an address, fetched together before they are read one by one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ich.remote import RemoteError, RemotePath, Span

_MOST = 128  # parts that are asked for at the same time
_GAP = 1 << 16  # bytes between two parts that are fetched as one
_BLOCK = 1 << 23  # bytes of parts that are fetched as one, at most


class Fetcher:
    """Fetches the parts that a thread is about to read, because a server answers many as fast as one.

    Parts that lie beside each other, as neighboring slices in a shard do, are fetched as one.

    Args:
        root: Folder of the files.
    """

    def __init__(self, root: RemotePath) -> None:
        self.root = root
        self._found: dict[Span, bytes | None] = {}

    def expect(self, spans: Sequence[Span]) -> None:
        """Fetches parts that are read next, and forgets those of the last call."""
        wanted = sorted(set(spans))
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
        groups = list(join_spans(spans))
        blocks = [Span(group[0].name, group[0].start, max(span.stop for span in group)) for group in groups]
        try:
            found = self.root.fetch(blocks)
        except RemoteError:  # reading the file itself says why
            found = [None] * len(blocks)
        for group, block, content in zip(groups, blocks, found, strict=True):
            for span in group:
                start, length = span.start - block.start, span.stop - span.start
                part = None if content is None else content[start : start + length]
                self._found[span] = part if part is not None and len(part) == length else None


def join_spans(spans: Sequence[Span]) -> Iterator[list[Span]]:
    """Groups sorted parts that are fetched as one: nearly beside each other, in the same file."""
    group = list[Span]()
    for span in spans:
        is_near = group and span.name == group[0].name and span.start <= group[-1].stop + _GAP
        if group and not (is_near and span.stop - group[0].start <= _BLOCK):
            yield group
            group = []
        group.append(span)
    if group:
        yield group
