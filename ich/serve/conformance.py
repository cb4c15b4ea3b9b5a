"""The DICOM conformance statement (PS3.2), made from the tables that the service works by.

``docs/conformance.md`` is what ``make_page`` returns.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from ich.dicom.kind import CT_IMAGES
from ich.serve.receive.meta import IMPLEMENTATION_UID
from ich.serve.receive.negotiation import IMPLEMENTATION_NAME
from ich.serve.receive.refusals import Status
from ich.serve.receive.syntaxes import SYNTAXES, VERIFICATION, make_contexts
from ich.serve.receive.wire import MOST_PDU
from ich.serve.sending.commitment import STORAGE_COMMITMENT
from ich.serve.sending.delivery import ANSWER_SECONDS, CONNECT_SECONDS
from ich.serve.settings.parts import Complete, Receive
from ich.serve.store.sends import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS

SENT = {
    Comprehensive3DSRStorage: "takes the structured report, if its `what` has `sr`, as by default",
    SecondaryCaptureImageStorage: "takes the key images, if its `what` has `sc`, as by default",
}
"""SOP classes that the service makes, and what a node does with them."""

_HEAD = """\
<!-- Made from the tables of ich/serve. After a change there, renew docs/conformance.md:
     python -c "from ich.serve.conformance import make_page; print(make_page(), end='')" > FILE -->

# DICOM conformance statement of `ich serve`

This page follows the parts of PS3.2 that apply. Research use only; not a medical device.
"""

_OVERVIEW = """
One application entity receives studies and sends answers. It is an SCP of Verification and of Storage. It is
an SCU of Storage, and of Storage Commitment if a node is configured so. It has no Query/Retrieve and no
Modality Worklist. DICOMweb takes studies by STOW-RS (PS3.18 10.5), and sends answers by it to nodes of the
kind `stow`."""

_STATUSES = {
    Status.SUCCESS: "The object is on the disk and in the queue, or the same object was there",
    Status.OUT_OF_RESOURCES: "The disk or the database takes nothing now; it may be sent again later",
    Status.MISMATCH: "The data set has another SOP class or instance than the command says",
    Status.NOT_UNDERSTOOD: "A UID is missing or not valid, or the data set cannot be read",
    Status.TOO_LARGE: "The object is larger than `receive.most_object_mb`",
    Status.TOO_MANY: "The study has `receive.most_objects` objects, or too many contents have one UID",
}


def make_page() -> str:
    """Returns the statement as Markdown."""
    parts = [_HEAD, _write(_OVERVIEW), *_describe_others(), *_describe_entity()]
    parts += [*_describe_receiving(), *_describe_sending()]
    return "\n".join(parts)


def _describe_others() -> list[str]:
    sender = "a sender, such as a scanner, PACS or router"
    node = "a node of `send`, such as a PACS"
    rows = [
        (sender, _name(VERIFICATION), VERIFICATION, "SCU", "may try the connection by C-ECHO"),
        *((sender, _name(uid), uid, "SCU", "sends slices") for uid in _list_read()),
        *((node, _name(uid), uid, "SCP", use) for uid, use in SENT.items()),
        (
            *(node, _name(STORAGE_COMMITMENT), STORAGE_COMMITMENT, "SCP"),
            "confirms that it keeps them, if it has `commitment: true`",
        ),
    ]
    return [
        "## What others have to offer\n",
        _write("""Set up these SOP classes at the other side. A sender needs at least one class of slices. A
            node that lacks a class of an answer never gets that answer, and the study's page says so."""),
        *_write_table(("who", "SOP class", "UID", "role", "it"), rows),
    ]


def _list_read() -> list[str]:
    """Lists the SOP classes of slices."""
    return sorted(filter(None, CT_IMAGES))


def _describe_entity() -> list[str]:
    receive = Receive()
    rows = [
        ("AE title", f"`receive.ae_title`, by default `{receive.ae_title}`; a request must name it"),
        ("address and port", f"`receive.host` and `receive.port`, by default {receive.host}:{receive.port}"),
        ("implementation class UID", IMPLEMENTATION_UID),
        ("implementation version name", IMPLEMENTATION_NAME),
        ("longest PDU that is received", f"{MOST_PDU} bytes"),
        ("associations at a time", f"`receive.most_associations`, by default {receive.most_associations}"),
        (
            "associations of one address at a time",
            f"`receive.most_associations_of_a_peer`, by default {receive.most_associations_of_a_peer}",
        ),
        ("an idle association ends after", f"`receive.idle_seconds`, by default {receive.idle_seconds:g} s"),
        ("peers", "`receive.peers`: AE titles and addresses; by default any"),
        ("encryption", "`receive.tls`: TLS, also with certificates of the peers; by default none"),
        ("asynchronous operations", "none"),
        ("extended negotiation", "none; roles as PS3.4 J.3.3 wants for Storage Commitment"),
        ("character sets", "any of PS3.3 C.12.1.1.2; objects are kept as they come"),
    ]
    return ["## The application entity\n", *_write_table(("what", "value"), rows)]


def _describe_receiving() -> list[str]:
    receive, complete = Receive(), Complete()
    read = [(_name(uid), uid) for uid in _list_read()]
    syntaxes = [(_name(uid), uid) for uid in SYNTAXES]
    statuses = [(f"0x{status:04X}", text) for status, text in _STATUSES.items()]
    echo = [_name(syntax) for syntax in find_echo_syntaxes()]
    return [
        "## Receiving\n",
        _write(f"C-ECHO ({VERIFICATION}) is answered in {' and '.join(echo)}."),
        _write("""C-STORE is answered for all storage SOP classes (PS3.4 B.5), because a study is complete
            only with all that belongs to it. Objects of these classes can be slices, and are read:"""),
        *_write_table(("SOP class", "UID"), read),
        _write("""All other objects are kept with their study, and not read. Each class is accepted in these
            transfer syntaxes, with the codecs of `pip install 'ich[codecs]'`. Of those that a peer offers,
            the first one in this order is taken:"""),
        *_write_table(("transfer syntax", "UID"), syntaxes),
        _write("The receiver answers when the file and its row in the database are on the disk:"),
        *_write_table(("status", "meaning"), statuses),
        _write(f"""Largest object: {receive.most_object_mb} MB. Most objects of a study:
            {receive.most_objects}. Objects are refused with 0x{Status.OUT_OF_RESOURCES:04X} while less than
            {receive.least_free_gb:g} GB are free. These are defaults of the settings."""),
        _write(f"""A study is complete {complete.quiet_seconds:g} s after its last object, or
            {complete.longest_seconds:g} s after its first one, but never while an association that brings it
            is open. An object that comes later leads to another reading. Its report names the earlier one in
            PredecessorDocumentsSequence."""),
    ]


def find_echo_syntaxes() -> list[str]:
    """Finds the transfer syntaxes of C-ECHO."""
    found = next(each for each in make_contexts() if each.abstract_syntax == VERIFICATION)
    return [str(syntax) for syntax in found.transfer_syntax]


def _describe_sending() -> list[str]:
    syntaxes = [(_name(uid), uid) for uid in (ExplicitVRLittleEndian, ImplicitVRLittleEndian)]
    sent = [(_name(uid), uid) for uid in SENT]
    return [
        "## Sending\n",
        _write("Each node of the kind `dicom` gets these objects by C-STORE:"),
        *_write_table(("SOP class", "UID"), sent),
        _write("They are offered in these transfer syntaxes:"),
        *_write_table(("transfer syntax", "UID"), syntaxes),
        _write("""The report follows TID 1500 (PS3.16). Both are in the patient and study of the slices, in
            series of their own. The status 0x0000 and the warnings 0xBxxx count as taken."""),
        _write(f"""With `commitment: true`, a request for {_name(STORAGE_COMMITMENT)} ({STORAGE_COMMITMENT})
            follows. The report of the node is taken on the same association, or on one that the node
            opens."""),
        _write(f"""A connection may take {CONNECT_SECONDS:g} s, and an answer {ANSWER_SECONDS:g} s. A failed
            attempt is repeated after {FIRST_RETRY_SECONDS:g} s, and each further one after twice the time, up
            to {LONGEST_RETRY_SECONDS:g} s, until `give_up_hours`.""").rstrip("\n"),
        "",
    ]


def _name(uid: str) -> str:
    return UID(uid).name


def _write_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*(f"| {' | '.join(line)} |" for line in lines), ""]


def _write(text: str) -> str:
    """Writes a paragraph in lines of the width of the other pages."""
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False) + "\n"
