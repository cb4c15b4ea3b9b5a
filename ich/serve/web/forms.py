"""The forms that the pages send."""

from __future__ import annotations

from urllib.parse import parse_qsl

from fastapi import Request

from ich.serve.web.refusals import RefusedError

_LARGEST = 1 << 16  # bytes
_MOST_FIELDS = 500


class Form:
    """The fields of a form.

    Args:
        fields: Names and values; a later field with the same name counts.
    """

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._values = dict(fields)

    def text(self, name: str) -> str:
        """Returns a field; it is empty if the form has none of the name."""
        return self._values.get(name, "")

    def list_all(self) -> dict[str, str]:
        """Returns all fields."""
        return dict(self._values)


async def read_form(request: Request) -> None:
    """Reads the form of a request into ``request.state.form``; a dependency of routes.

    Raises:
        RefusedError: If it is too large, or not a form.
    """
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > _LARGEST:
            raise RefusedError(413, "The form is too large.")
    try:
        fields = parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError as error:
        raise RefusedError(400, "The form cannot be read.") from error
    request.state.form = Form(fields)
