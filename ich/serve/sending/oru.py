"""A result as an unsolicited observation of HL7 2.5.1, ORU^R01 (chapter 7)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from pydicom.dataset import Dataset

from ich.outputs.concepts import OUTCOME, OUTCOMES, PROBABILITY, PROCEDURE, STUDY_UID, THRESHOLD, Concept
from ich.schema.results import StudyResult
from ich.schema.shares import show_number
from ich.serve.sending.delivery import NotTaken
from ich.serve.sending.statements import (
    list_comments,
    list_statements,
    name_algorithm,
    read_patient_id,
    read_study_time,
    read_text,
)

APPLICATION = "ICH"
"""MSH-3, the sending application."""

_COMMENT = Concept("121106", "DCM", "Comment")
_ALGORITHM = Concept("111001", "DCM", "Algorithm Name")
_UNIT = Concept("1", "UCUM", "no units")
_DELIMITERS = {"\\": "E", "|": "F", "^": "S", "&": "T", "~": "R"}
_ESCAPES = str.maketrans(
    {sign: f"\\{letter}\\" for sign, letter in _DELIMITERS.items()}
    | dict.fromkeys(map(chr, (*range(32), 127)), " ")
)
_PRELIMINARY, _NO_RESULT = "P", "O"  # table 0085: to be verified by a person; a description of the order


def make_message(
    result: StudyResult, header: Dataset, *, facility: str, identifier: str, now: datetime
) -> str:
    """Makes the message.

    The patient and the study come from the DICOM report. Each label becomes an observation with its decision,
    its probability and its operating point; OBX-4 groups them by the label. All are preliminary.

    Args:
        result: The result.
        header: The DICOM report.
        facility: The sending facility: the AE title of the service.
        identifier: Names the message, at most 20 characters; the same in each attempt.
        now: The time, with its zone.

    Returns:
        Segments that end in a carriage return.

    Raises:
        NotTaken: If the study was not read, or has no PatientID.
    """
    stamp, made = now.strftime("%Y%m%d%H%M%S%z"), read_study_time(header)
    accession = _escape(read_text(header, "AccessionNumber"))
    head = {2: r"^~\&", 3: APPLICATION, 4: _escape(facility), 7: stamp, 9: "ORU^R01^ORU_R01"}
    head |= {10: identifier, 11: "P", 12: "2.5.1", 18: "UNICODE UTF-8"}
    patient = {1: "1", 3: _make_identifier(header), 5: _make_name(header)}
    patient |= {
        7: _escape(read_text(header, "PatientBirthDate")),
        8: _escape(read_text(header, "PatientSex")),
    }
    order = {1: "1", 3: accession, 4: _code(PROCEDURE), 18: accession, 22: stamp, 24: "CT", 25: _PRELIMINARY}
    order[7] = made.strftime("%Y%m%d%H%M%S") if made else ""
    segments = [("MSH", head), ("PID", patient), ("OBR", order)]
    for number, fields in enumerate(_list_observations(result), 1):
        segments.append(("OBX", {1: str(number), 11: _PRELIMINARY, **fields}))
    return "".join(f"{_join(name, fields)}\r" for name, fields in segments)


def find_fault(answer: Sequence[Sequence[str]], identifier: str) -> str:
    """Finds out whether a node accepted a message (chapter 2.9.2).

    Args:
        answer: Segments of its answer, as fields that begin with the segment's name.
        identifier: Names the message.

    Returns:
        What is wrong; empty if it accepted the message. AA counts only.
    """
    for fields in answer:
        if fields[0] == "MSA":
            code, of = (*fields[1:3], "", "")[:2]
            if code == "AA" and of == identifier:
                return ""
            known = code if code in ("AA", "AE", "AR", "CA", "CE", "CR") else "an unknown code"
            return f"the acknowledgment is {known}" + ("" if of == identifier else " of another message")
    return "the answer is not an acknowledgment"


def _list_observations(result: StudyResult) -> Iterator[dict[int, str]]:
    """Lists the fields of each OBX but its number."""
    if result.outcome is None:
        raise NotTaken("the study could not be read", for_good=True)
    yield {2: "HD", 3: _code(STUDY_UID), 5: _escape(result.StudyInstanceUID), 11: _NO_RESULT}
    yield {2: "ST", 3: _code(_ALGORITHM), 5: _escape(name_algorithm(result))}
    yield {2: "CWE", 3: _code(OUTCOME), 5: _code(OUTCOMES[result.outcome])}
    for said in list_statements(result):
        if said.presence is not None:
            yield {2: "CWE", 3: _code(said.finding), 4: said.label, 5: _code(said.presence)}
        for concept, value in ((PROBABILITY, said.prob), (THRESHOLD, said.threshold)):
            if value is not None:
                yield {2: "NM", 3: _code(concept), 4: said.label, 5: show_number(value, 4), 6: _code(_UNIT)}
    for text in list_comments(result):
        yield {2: "TX", 3: _code(_COMMENT), 5: _escape(text)}


def _join(name: str, fields: Mapping[int, str]) -> str:
    first = 2 if name == "MSH" else 1  # MSH-1 is the separator itself
    return "|".join([name, *(fields.get(number, "") for number in range(first, max(fields) + 1))])


def _make_identifier(header: Dataset) -> str:
    """Makes a CX: the identifier and who assigned it."""
    issuer = _escape(read_text(header, "IssuerOfPatientID"))
    return _escape(read_patient_id(header)) + (f"^^^{issuer}" if issuer else "")


def _make_name(header: Dataset) -> str:
    """Makes an XPN of a DICOM name, whose prefix stands before its suffix (PS3.5 6.2)."""
    groups = read_text(header, "PatientName").split("=")
    family, given, middle, prefix, suffix = (*next(filter(None, groups), "").split("^"), *[""] * 5)[:5]
    return "^".join(map(_escape, (family, given, middle, suffix, prefix))).rstrip("^")


def _code(concept: Concept) -> str:
    """Makes a CWE."""
    return "^".join(map(_escape, (concept.value, concept.meaning, concept.scheme)))


def _escape(text: str) -> str:
    """Escapes delimiters (chapter 2.7.1); control characters would break the framing."""
    return text.translate(_ESCAPES)
