"""``SliceNet``, a network for slices, and ``SliceClassifier``, which trains one.

The latter needs Lightning. It is imported when it is first used, so that inference does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ich.models.loading import Ensemble, load_ensemble, load_slice_net
from ich.models.network import SliceNet, hash_weights

if TYPE_CHECKING:
    from ich.models.classifier import SliceClassifier

__all__ = ["Ensemble", "SliceClassifier", "SliceNet", "hash_weights", "load_ensemble", "load_slice_net"]

if not TYPE_CHECKING:  # type checkers see the import

    def __getattr__(name: str) -> Any:
        if name != "SliceClassifier":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from ich.models.classifier import SliceClassifier

        return SliceClassifier
