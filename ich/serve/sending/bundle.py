"""A result as FHIR R4: a DiagnosticReport with Observations, in a transaction (https://hl7.org/fhir/R4)."""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from pydicom.dataset import Dataset

from ich.outputs.concepts import OUTCOME, OUTCOMES, PROBABILITY, PROCEDURE, SCHEME, THRESHOLD, Concept
from ich.schema.results import StudyResult
from ich.serve.sending.delivery import NotTaken
from ich.serve.sending.statements import (
    Statement,
    list_comments,
    list_statements,
    name_algorithm,
    read_patient_id,
    read_study_time,
    read_text,
)

_SYSTEMS = {
    "SCT": "http://snomed.info/sct",
    "LN": "http://loinc.org",
    "DCM": "http://dicom.nema.org/resources/ontology/DCM",
}
_UUIDS = "urn:ietf:rfc:3986"  # system of identifiers that are URIs
_RADIOLOGY = {"system": "http://terminology.hl7.org/CodeSystem/v2-0074", "code": "RAD"}
_IMAGING = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": "imaging"}
_ACCESSION = {"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}


def make_bundle(result: StudyResult, header: Dataset, now: datetime) -> dict[str, Any]:
    """Makes the transaction.

    The identifiers of the resources follow from the study. Each is a conditional update, so an answer that
    is sent twice makes no second resource, and the answer of a newer reading takes the place of the older
    one. The patient, the study and the order are named by their identifiers from the DICOM report.

    Args:
        result: The result.
        header: The DICOM report.
        now: The time, with its zone.

    Raises:
        NotTaken: If the study was not read, or has no PatientID.
    """
    if result.outcome is None:
        raise NotTaken("the study could not be read", for_good=True)
    shared = _make_shared(header)
    outcome = {
        **_observe(_code(OUTCOME), result, shared),
        "valueCodeableConcept": _code(OUTCOMES[result.outcome]),
        "note": [{"text": text} for text in list_comments(result)],
    }
    named = [("outcome", outcome)]
    named += [(said.label, _make_observation(said, result, shared)) for said in list_statements(result)]
    entries = [_make_entry(result, name, resource) for name, resource in named]
    report = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [{"coding": [_RADIOLOGY]}],
        "code": _code(PROCEDURE),
        **shared,
        "issued": now.isoformat(timespec="seconds"),
        "imagingStudy": [_refer("ImagingStudy", "urn:dicom:uid", f"urn:oid:{result.StudyInstanceUID}")],
        "result": [{"reference": entry["fullUrl"]} for entry in entries],
        "conclusion": f"{result.outcome}. {name_algorithm(result)}. " + ". ".join(list_comments(result)),
    }
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [_make_entry(result, "report", report), *entries],
    }


def find_fault(answer: Any) -> str:
    """Finds out whether a server took the whole transaction; returns what is wrong, empty if nothing is.

    Args:
        answer: Its answer as plain values.
    """
    if not isinstance(answer, dict) or answer.get("type") != "transaction-response":
        return "the answer is not a transaction-response"
    try:
        statuses = [str(entry["response"]["status"]) for entry in answer.get("entry", [])]
    except (TypeError, LookupError):
        return "the transaction-response is not valid"
    bad = sum(not status.startswith("2") for status in statuses)
    return f"{bad} of {len(statuses)} resources were not taken" if bad else ""


def _make_shared(header: Dataset) -> dict[str, Any]:
    """Makes what the report and its observations have in common: patient, order and date."""
    made, accession = read_study_time(header), read_text(header, "AccessionNumber")
    patient: dict[str, Any] = {"type": "Patient", "identifier": {"value": read_patient_id(header)}}
    order = {"type": {"coding": [_ACCESSION]}, "value": accession}
    return {
        "subject": patient,
        **({"basedOn": [{"type": "ServiceRequest", "identifier": order}]} if accession else {}),
        **({"effectiveDateTime": made.date().isoformat()} if made else {}),
    }


def _make_observation(said: Statement, result: StudyResult, shared: dict[str, Any]) -> dict[str, Any]:
    figures = ((PROBABILITY, said.prob), (THRESHOLD, said.threshold))
    observation = _observe({**_code(said.finding), "text": said.label}, result, shared)
    if said.presence is not None:
        observation["valueCodeableConcept"] = _code(said.presence)
    observation["component"] = [
        {
            "code": _code(concept),
            "valueQuantity": {"value": round(value, 4), "system": "http://unitsofmeasure.org", "code": "1"},
        }
        for concept, value in figures
        if value is not None
    ]
    return observation


def _observe(code: dict[str, Any], result: StudyResult, shared: dict[str, Any]) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [{"coding": [_IMAGING]}],
        "code": code,
        **shared,
        "device": {"type": "Device", "display": name_algorithm(result)},
    }


def _make_entry(result: StudyResult, name: str, resource: dict[str, Any]) -> dict[str, Any]:
    own = uuid.uuid5(uuid.NAMESPACE_OID, f"{result.StudyInstanceUID} ich {name}").urn
    return {
        "fullUrl": own,
        "resource": {**resource, "identifier": [{"system": _UUIDS, "value": own}]},
        "request": {"method": "PUT", "url": f"{resource['resourceType']}?identifier={_UUIDS}|{own}"},
    }


def _refer(kind: str, system: str, value: str) -> dict[str, Any]:
    return {"type": kind, "identifier": {"system": system, "value": value}}


def _code(concept: Concept) -> dict[str, Any]:
    """Makes a CodeableConcept; a private code is only a text."""
    if concept.scheme == SCHEME:
        return {"text": concept.meaning}
    coding = {"system": _SYSTEMS[concept.scheme], "code": concept.value, "display": concept.meaning}
    return {"coding": [coding], "text": concept.meaning}
