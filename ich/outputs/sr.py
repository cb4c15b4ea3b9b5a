"""A study's result as a DICOM Comprehensive 3D SR, by TID 1500, Measurement Report (PS3.16)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ich.files import for_owner_only, replacing
from ich.outputs.concepts import (
    DISTANCE,
    DISTANCE_LIMIT,
    FINDINGS,
    OUTCOME,
    OUTCOMES,
    PRESENCE,
    PROBABILITY,
    PROCEDURE,
    REASON,
    SCHEME,
    SITES,
    THRESHOLD,
    Concept,
    list_coded,
    state_presence,
)
from ich.outputs.refusal import OutputRefused
from ich.outputs.source import (
    MANUFACTURER,
    building,
    derive_device_uid,
    derive_uid,
    describe_device,
    read_header,
    read_sources,
    to_ascii,
)
from ich.schema import DISCLAIMER
from ich.schema.codes import Note, OutputRefusal, Reason, describe_code
from ich.schema.results import Algorithm, StudyResult
from ich.tables import split_name

__all__ = ["write_sr"]

SERIES_NUMBER = 9100
"""High, so that a scanner is unlikely to use it."""


def write_sr(
    result: StudyResult, files: Mapping[str, Path], out: Path, predecessor: Path | None = None
) -> None:
    """Writes a study's result as a structured report in a new series of the study.

    The first measurement group is the study's: the outcome, its reasons, and the distance from the training
    data. One group for each label follows, that of the label that decides first. It holds the finding by
    SNOMED CT, with presence, probability and operating point. A label without a code is left out, and a
    comment names it. Groups of labels that are called present refer to the key slices. The document is
    complete, preliminary and unverified. UIDs follow from the result, so a second run overwrites.

    Args:
        result: The study's result.
        files: Files by SOPInstanceUID, at least those of ``result.slices``.
        out: The file; readable by the owner only.
        predecessor: The earlier report of the study that this one replaces. PredecessorDocumentsSequence
            (PS3.3 C.17.2) names it, and the report's UID follows from it too.

    Raises:
        OutputRefused: If the study has no result, no label has a code, or slices lack required attributes.
        OSError: If it cannot be written.
    """
    sources = read_sources(result, files)
    if not list_coded(result):
        raise OutputRefused(OutputRefusal.NO_CODE, f"there is no code for {', '.join(result.labels)}")
    with building():
        earlier = [] if predecessor is None else [read_header(predecessor)]
        report = Comprehensive3DSR(
            evidence=list({source.SOPInstanceUID: source for source in sources}.values()),
            content=_make_content(result, sources)[0],
            series_instance_uid=derive_uid(result, "report", "series"),
            series_number=SERIES_NUMBER,
            series_description=f"{MANUFACTURER} result, research use only",
            sop_instance_uid=derive_uid(result, "report", *(str(each.SOPInstanceUID) for each in earlier)),
            instance_number=1,
            previous_versions=earlier or None,
            is_complete=True,
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    SCHEME,
                    name="ich, intracranial hemorrhage in head CT",
                    responsible_organization=MANUFACTURER,
                )
            ],
            **describe_device(result.algorithm),
        )
        with for_owner_only(), replacing(out) as partial:
            report.save_as(partial)


def _make_content(result: StudyResult, sources: Sequence[Dataset]) -> MeasurementReport:
    shown = list_coded(result)
    report = MeasurementReport(
        observation_context=_make_context(result.algorithm),
        procedure_reported=CodedConcept(*PROCEDURE),
        imaging_measurements=[
            _make_study_group(result),
            *(_make_group(result, label, sources) for label in shown),
        ],
    )
    # TID 1500 is extensible, and has no item for text.
    report[0].ContentSequence.extend(
        TextContentItem(codes.DCM.Comment, to_ascii(text), RelationshipTypeValues.CONTAINS)
        for text in (
            DISCLAIMER,
            f"Outcome: {result.outcome}",
            *(f"Left out, as it has no code: {label}" for label in result.labels if label not in shown),
            *(f"{REASON.meaning}: {describe_code(Reason, r.code, r.detail)}" for r in result.reasons),
            *(f"Note: {describe_code(Note, note.code, note.detail)}" for note in result.notes),
        )
    )
    return report


def _make_context(algorithm: Algorithm) -> ObservationContext:
    """States that a device made the observations, not a person."""
    device = describe_device(algorithm)
    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=derive_device_uid(algorithm),
                name=MANUFACTURER,
                manufacturer_name=MANUFACTURER,
                model_name=device["manufacturer_model_name"],
                serial_number=device["device_serial_number"],
            ),
        )
    )


def _make_study_group(result: StudyResult) -> MeasurementsAndQualitativeEvaluations:
    """Makes the measurement group of the study, which does not depend on any label's code (TID 1501)."""
    assert result.outcome is not None  # else there would be no sources
    measurements = (_measure(DISTANCE, result.distance), _measure(DISTANCE_LIMIT, result.distance_limit))
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(derive_uid(result, "finding"), "study"),
        algorithm_id=_identify(result),
        measurements=[measurement for measurement in measurements if measurement is not None],
        qualitative_evaluations=[
            _evaluate(OUTCOME, OUTCOMES[result.outcome]),
            *(_evaluate(REASON, Concept(r.code, SCHEME, r.code.replace("_", " "))) for r in result.reasons),
        ],
    )


def _make_group(
    result: StudyResult, label: str, sources: Sequence[Dataset]
) -> MeasurementsAndQualitativeEvaluations:
    """Makes the measurement group of a label (TID 1501)."""
    said = result.labels[label]
    measurements = (
        _measure(PROBABILITY, said.prob),
        _measure(THRESHOLD, said.threshold),
    )
    present = label in (result.decides, *result.subtypes)
    presence = state_presence(result, label)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(derive_uid(result, "finding", label), label),
        finding_type=CodedConcept(*FINDINGS[label]),
        finding_sites=[FindingSite(CodedConcept(*SITES[label]))] if label in SITES else None,
        algorithm_id=_identify(result),
        measurements=[measurement for measurement in measurements if measurement is not None],
        qualitative_evaluations=[] if presence is None else [_evaluate(PRESENCE, presence)],
        source_images=[
            SourceImageForMeasurementGroup(
                sources[n].SOPClassUID,
                sources[n].SOPInstanceUID,
                _name_frame(result.slices[n].SOPInstanceUID),
            )
            for n in (result.key_slices if present else ())
        ],
    )


def _name_frame(name: str) -> list[int] | None:
    """Names the frame in a reference to a multi-frame image (PS3.3 C.18.4)."""
    _, frame = split_name(name)
    return [frame] if frame else None


def _identify(result: StudyResult) -> AlgorithmIdentification:
    """Identifies the algorithm that made the measurements (TID 4019)."""
    algorithm = result.algorithm
    parameters = [
        *(f"weights SHA-256 {weights}" for weights in algorithm.weights),
        f"test-time augmentation: {', '.join(algorithm.tta) or 'none'}",
        f"pooling of slices: {algorithm.pooling}",
    ]
    if result.decides is not None:
        parameters.append(f"operating point of {result.decides}: {algorithm.rule or 'none'}")
    return AlgorithmIdentification(
        name=f"{MANUFACTURER} {to_ascii(algorithm.name)}",
        version=algorithm.version,
        parameters=[to_ascii(parameter) for parameter in parameters],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )


def _evaluate(name: Concept, value: Concept) -> QualitativeEvaluation:
    return QualitativeEvaluation(CodedConcept(*name), CodedConcept(*value))


def _measure(name: Concept, value: float | None) -> Measurement | None:
    if value is None:
        return None
    return Measurement(name=CodedConcept(*name), value=value, unit=codes.UCUM.NoUnits)
