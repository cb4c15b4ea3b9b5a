"""Pictures of an evaluation as figures: what is written in them stays within them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from predictions import make_table

from ich.evaluate import evaluate
from ich.evaluate.decisions import fit_decisions
from ich.evaluate.figures import Evaluation
from ich.evaluation_report.pictures import draw_precision_recall, draw_reliability, draw_roc


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    decisions = fit_decisions(make_table(patients=50, seed=1, part="val"))
    return evaluate(make_table(patients=60), decisions=decisions, replicates=40)


@pytest.mark.parametrize("draw", [draw_roc, draw_precision_recall, draw_reliability])
def test_titles_of_panels_are_whole(draw: Callable[..., Figure], evaluation: Evaluation) -> None:
    figure = draw(evaluation.curves["slice"], evaluation.levels["slice"].labels)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    lefts = [axes.bbox.x0 for axes in figure.axes]
    for axes in figure.axes:
        (title,) = (text for text in axes.findobj(Text) if text.get_text() == axes.get_title("left"))
        assert "\n" in title.get_text()
        end = min((left for left in lefts if left > axes.bbox.x0 + 1), default=figure.bbox.x1)
        assert title.get_window_extent(canvas.get_renderer()).x1 < end, title.get_text()
