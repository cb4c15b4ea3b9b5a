"""The pixels of a study's slices, as the viewer takes them."""

from __future__ import annotations

import gzip
import math

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ich.dicom import read_header, read_hu
from ich.dicom.orientation import UNKNOWN
from ich.schema import ReadError
from ich.serve.store.lookup import find_object
from ich.serve.web.refusals import RefusedError
from ich.serve.web.site import Site
from ich.serve.web.study import StudyView, find_view

_GONE = "The files of this study have been deleted. Its result is kept."
_LEVEL = 1  # of gzip: higher ones take longer than the network


def make_router(site: Site) -> APIRouter:
    """Makes the route of a slice's pixels."""
    router = APIRouter()

    @router.get("/studies/{token}/slices/{number}")
    def send_slice(request: Request, token: str, number: str) -> Response:
        """Sends (Rows, Columns) HU in LPS, 16 bits, little-endian; headers hold the shape."""
        site.access.require(request)
        view = find_view(site, token, request.query_params.get("reading", ""))
        path, digest, frame = _locate(site, view, number)
        caching = {"ETag": f'"{digest}.{frame}"', "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == caching["ETag"]:
            return Response(status_code=304, headers=caching)
        file = site.inbox.locate(path)
        if not file.is_file():
            raise RefusedError(410, _GONE)
        try:
            header, hu = read_header(file, frame), read_hu(file, frame)
        except ReadError as error:
            raise RefusedError(422, f"The file of this slice cannot be read ({error.code}).") from error
        spacing = (header.row_spacing, header.column_spacing)
        aspect = spacing[0] / spacing[1] if all(map(math.isfinite, spacing)) else 1.0
        knows_sides = header.orientation != UNKNOWN and view.result is not None and view.result.knows_sides
        headers = {
            **caching,
            "X-Rows": str(hu.shape[0]),
            "X-Columns": str(hu.shape[1]),
            "X-Aspect": f"{aspect:.6f}",  # height of a pixel by its width
            "X-Sides": "known" if knows_sides else "unknown",
            "Vary": "Accept-Encoding",
        }
        content = hu.astype("<i2", copy=False).tobytes()
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = gzip.compress(content, _LEVEL)
            headers["Content-Encoding"] = "gzip"
        return Response(content, media_type="application/octet-stream", headers=headers)

    return router


def _locate(site: Site, view: StudyView, number: str) -> tuple[str, str, int]:
    """Finds the file of a slice of the series that was read, its digest and the frame in it.

    Raises:
        RefusedError: If there is no such slice, or its file is gone.
    """
    slices = () if view.result is None else view.result.slices
    place = int(number) - 1 if number.isascii() and number.isdecimal() and len(number) <= 6 else -1
    if not 0 <= place < len(slices):
        raise RefusedError(404, "The study has no such slice.")
    if view.study.pixels_deleted:
        raise RefusedError(410, _GONE)
    uid, _, frame = slices[place].SOPInstanceUID.partition("#")
    with site.store.view() as connection:
        found = find_object(connection, view.study.id, uid)
    if found is None:
        raise RefusedError(410, _GONE)
    return *found, int(frame or 0)
