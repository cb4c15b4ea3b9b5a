"""The transfer syntaxes and storage classes that are taken (PS3.4 B.5)."""

from __future__ import annotations

from functools import cache

from pydicom import uid
from pynetdicom import AllStoragePresentationContexts, build_context
from pynetdicom.presentation import PresentationContext

from ich.dicom.codecs import DECODERS
from ich.serve.sending.commitment import make_report_context

VERIFICATION = "1.2.840.10008.1.1"
"""SOP class of C-ECHO (PS3.4 A.4)."""

_UNCOMPRESSED = (
    uid.ExplicitVRLittleEndian,
    uid.ImplicitVRLittleEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
)
_LOSSY = (
    uid.JPEGBaseline8Bit,
    uid.JPEGExtended12Bit,
    uid.JPEGLSNearLossless,
    uid.JPEG2000,
    uid.JPEG2000MC,
    uid.HTJ2K,
)


def _rank(syntax: str) -> int:
    return _UNCOMPRESSED.index(syntax) if syntax in _UNCOMPRESSED else len(_UNCOMPRESSED) + (syntax in _LOSSY)


SYNTAXES = tuple(sorted((name for name, decoder in DECODERS.items() if decoder.is_available), key=_rank))
"""Transfer syntaxes that an installed codec decodes, the preferred first: a sender that offers a lossy one
beside others must not compress for it."""


@cache
def make_contexts() -> tuple[PresentationContext, ...]:
    """Returns the contexts that are accepted: C-ECHO, reports of commitment and all storage classes."""
    storage = (
        build_context(str(each.abstract_syntax), list(SYNTAXES)) for each in AllStoragePresentationContexts
    )
    return (build_context(VERIFICATION, list(SYNTAXES[:2])), make_report_context(), *storage)
