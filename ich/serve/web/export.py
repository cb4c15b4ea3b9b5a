"""Judgments as a label CSV, which `ich evaluate` and `ich recalibrate` take."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from fastapi import APIRouter, Request
from fastapi.responses import Response

from ich.schema import LABELS
from ich.serve.states import Role
from ich.serve.store.judgments import JudgedReading, list_judged
from ich.serve.web.site import Site

_KEYS = {"studies": "StudyInstanceUID", "slices": "SOPInstanceUID"}


def make_router(site: Site) -> APIRouter:
    """Makes the route of the label CSV."""
    router = APIRouter()

    @router.get("/judgments.csv")
    def send(request: Request) -> Response:
        site.access.require(request, Role.ADMINISTER)
        of = "slices" if request.query_params.get("of") == "slices" else "studies"
        with site.store.view() as connection:
            judged = list_judged(connection)
        headers = {"Content-Disposition": f'attachment; filename="labels_of_{of}.csv"'}
        return Response(write_labels(judged, of), media_type="text/csv", headers=headers)

    return router


def write_labels(judged: Sequence[JudgedReading], of: str) -> str:
    """Writes what people say as a label CSV.

    The newest judgment of each account of a study counts. A label about which accounts disagree is left
    blank, which means unknown. What then contradicts itself is left out.

    Args:
        judged: The newest judgment of each account of each reading, the oldest first.
        of: ``studies`` or ``slices``.
    """
    latest = {(each.StudyInstanceUID, each.judgment.account): each for each in judged}
    said: dict[str, list[Mapping[str, int]]] = {}
    for (study, _), each in latest.items():
        slices = each.judgment.slices.items() if of == "slices" else [(study, each.judgment.labels)]
        for unit, labels in slices:
            if labels:
                said.setdefault(unit, []).append(labels)
    found = {name for opinions in said.values() for labels in opinions for name in labels}
    names = [name for name in LABELS if name in found] + sorted(found - set(LABELS))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([_KEYS[of], *names])
    for unit, opinions in said.items():
        labels = merge(opinions)
        if labels and not _is_contradiction(labels, names):
            writer.writerow([unit, *(labels.get(name, "") for name in names)])
    return text.getvalue()


def merge(said: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Merges what several accounts say, without the labels about which they disagree."""
    found: dict[str, set[int]] = {}
    for labels in said:
        for name, value in labels.items():
            found.setdefault(name, set()).add(value)
    return {name: values.pop() for name, values in found.items() if len(values) == 1}


def _is_contradiction(labels: Mapping[str, int], names: Sequence[str]) -> bool:
    """Whether ``any`` of the RSNA's labels contradicts the others, of which different accounts spoke."""
    others = [labels.get(name) for name in names if name != "any"]
    if "any" not in labels or not others or not set(names) <= set(LABELS):
        return False
    return 1 in others if labels["any"] == 0 else all(value == 0 for value in others)
