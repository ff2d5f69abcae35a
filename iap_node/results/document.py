"""The SR document of a result: Comprehensive SR by TID 1500 "Measurement Report", always the same for the same result.

Its UIDs are made from what it says, so that a run that is repeated makes the same document, and one that says anything
else has another UID. Called by `report`.

References
----------
PS3.3 A.35.3 (Comprehensive SR IOD), C.17 (SR modules); PS3.16 TID 1500, 1501, 300, 1600, 1002, 1004, 4019;
PS3.5 B.2 (UIDs from UUIDs), RFC 9562 (UUIDs from names).
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from io import BytesIO
from typing import Final

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import UID, ImplicitVRLittleEndian

import iap_node
from iap_node.dicom.parameters import canonical_number
from iap_node.dicom.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from iap_node.dicom.sop_classes import MR_IMAGE_SOP_CLASSES
from iap_node.records import ParameterKind, Witness
from iap_node.results import codes
from iap_node.results.codes import Code, meaning, term
from iap_node.results.content import FindingResult, ModelUsed, ParameterResult, ResultStatus, SeriesResult
from iap_node.results.identity import Identity

COMPREHENSIVE_SR_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.88.33"
SR_MODALITY: Final = "SR"
MANUFACTURER: Final = "IAP"
MODEL_NAME: Final = "iap-node"
SERIES_NUMBER: Final = 9900  # of the documents' series: behind those of scanners
SERIES_DESCRIPTION: Final = "IAP node: results"
AUDIT_ALGORITHM: Final = "iap-node header audit"
_PREFIX = "2.25."
_NAMESPACE = uuid.UUID(int=int(IMPLEMENTATION_CLASS_UID.removeprefix(_PREFIX)))


@dataclass(frozen=True, slots=True)
class ReferencedInstance:
    """An instance of the series, as the receiver of the document knows it."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What a document is about, beside the result, and who makes it."""

    identity: Identity
    series_instance_uid: str  # of the instances: that of the copy where copies are sent
    instances: Sequence[ReferencedInstance]
    ae_title: str  # of the node


def build_document(result: SeriesResult, origin: Origin) -> Dataset:
    """The document as a data set, without file meta information."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    _identify(ds, result, origin)
    ds.update(origin.identity.elements)
    _describe_series(ds, result, origin)
    _describe_document(ds, result, origin)
    root = _content(result, origin)
    for element in root:
        ds.add(element)
    return ds


def encode(ds: Dataset, transfer_syntax_uid: str = ImplicitVRLittleEndian) -> bytes:
    """A document as a Part 10 file, the same bytes for the same document.

    Implicit VR Little Endian, which every peer must take (PS3.5 10.1), unless another is asked for.
    """
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    ds.file_meta = meta
    written = BytesIO()
    dcmwrite(written, ds, enforce_file_format=True)
    return written.getvalue()


def _uid(*parts: str) -> str:
    return f"{_PREFIX}{uuid.uuid5(_NAMESPACE, '/'.join(('result', *parts))).int}"


# ---------------------------------------------------------------- modules


def _identify(ds: Dataset, result: SeriesResult, origin: Origin) -> None:
    written = _written_at(result, origin)
    told = json.dumps(result.as_json(), sort_keys=True)
    instances = "\\".join(one.sop_instance_uid for one in origin.instances)
    ds.SOPClassUID = UID(COMPREHENSIVE_SR_STORAGE)
    ds.SOPInstanceUID = UID(
        _uid(told, origin.series_instance_uid, instances, origin.ae_title, f"{written:%Y%m%d%H%M%S%z}")
    )
    ds.StudyInstanceUID = UID(result.study_instance_uid)
    ds.InstanceCreationDate, ds.InstanceCreationTime = f"{written:%Y%m%d}", f"{written:%H%M%S}"
    if origin.identity.timezone:
        ds.TimezoneOffsetFromUTC = origin.identity.timezone
    scheme = Dataset()
    scheme.CodingSchemeDesignator = codes.PRIVATE_SCHEME
    scheme.CodingSchemeName = codes.PRIVATE_SCHEME_NAME
    ds.CodingSchemeIdentificationSequence = DicomSequence([scheme])


def _describe_series(ds: Dataset, result: SeriesResult, origin: Origin) -> None:
    ds.Modality = SR_MODALITY
    ds.SeriesInstanceUID = UID(_uid("series", result.study_instance_uid, origin.series_instance_uid))
    ds.SeriesNumber = SERIES_NUMBER
    ds.SeriesDescription = SERIES_DESCRIPTION
    ds.ReferencedPerformedProcedureStepSequence = DicomSequence([])
    ds.Manufacturer = MANUFACTURER
    ds.ManufacturerModelName = MODEL_NAME
    ds.SoftwareVersions = [result.software_version, *([result.model.model_id[:64]] if result.model else [])]
    ds.StationName = origin.ae_title[:16]


def _describe_document(ds: Dataset, result: SeriesResult, origin: Origin) -> None:
    written = _written_at(result, origin)
    ds.InstanceNumber = result.revision
    ds.ContentDate, ds.ContentTime = f"{written:%Y%m%d}", f"{written:%H%M%S}"
    ds.CompletionFlag = "COMPLETE"
    ds.VerificationFlag = "UNVERIFIED"  # nobody has signed what an algorithm says
    ds.PerformedProcedureCodeSequence = DicomSequence([])
    series = Dataset()
    series.SeriesInstanceUID = UID(origin.series_instance_uid)
    series.ReferencedSOPSequence = DicomSequence([_reference(one) for one in origin.instances])
    study = Dataset()
    study.StudyInstanceUID = UID(result.study_instance_uid)
    study.ReferencedSeriesSequence = DicomSequence([series])
    ds.CurrentRequestedProcedureEvidenceSequence = DicomSequence([study])


def _written_at(result: SeriesResult, origin: Origin) -> datetime:
    """When what it says was found out, in the time of the instances where they tell their offset, else in ours."""
    offset = origin.identity.timezone
    if not offset:
        return result.changed_at.astimezone()
    minutes = int(offset[1:3]) * 60 + int(offset[3:])
    return result.changed_at.astimezone(timezone(timedelta(minutes=-minutes if offset[0] == "-" else minutes)))


# ---------------------------------------------------------------- content


def _content(result: SeriesResult, origin: Origin) -> Dataset:
    procedure = codes.MR_IMAGING if result.modality == "MR" else codes.IMAGING
    node = _uid("node", origin.ae_title)
    groups = [_parameter(one, result) for one in result.parameters]
    groups += [_finding(one, number, result) for number, one in enumerate(result.findings)]
    if result.novelty_score is not None and not math.isnan(result.novelty_score) and result.model is not None:
        groups.insert(0, _novelty(result, result.model))
    children = [
        _coded("HAS CONCEPT MOD", codes.LANGUAGE, codes.ENGLISH),
        _coded("HAS OBS CONTEXT", codes.OBSERVER_TYPE, codes.DEVICE),
        _uid_reference("HAS OBS CONTEXT", codes.OBSERVER_UID, node),
        _text("HAS OBS CONTEXT", codes.OBSERVER_NAME, origin.ae_title),
        _text("HAS OBS CONTEXT", codes.OBSERVER_MANUFACTURER, MANUFACTURER),
        _text("HAS OBS CONTEXT", codes.OBSERVER_MODEL, f"{MODEL_NAME} {result.software_version}"),
        _coded("HAS CONCEPT MOD", codes.PROCEDURE_REPORTED, procedure),
    ]
    images = [one for one in origin.instances if one.sop_class_uid in MR_IMAGE_SOP_CLASSES]
    if images:
        library = _container("CONTAINS", codes.IMAGE_LIBRARY_GROUP, [_image(one) for one in images])
        children.append(_container("CONTAINS", codes.IMAGE_LIBRARY, [library]))
    if groups:
        children.append(_container("CONTAINS", codes.IMAGING_MEASUREMENTS, groups))
    children.append(_container("CONTAINS", codes.QUALITATIVE_EVALUATIONS, list(_evaluations(result))))
    root = _container(None, codes.REPORT, children)
    template = Dataset()
    template.MappingResource = "DCMR"
    template.TemplateIdentifier = "1500"
    root.ContentTemplateSequence = DicomSequence([template])
    root.ObservationDateTime = f"{_written_at(result, origin):%Y%m%d%H%M%S}"
    return root


def _evaluations(result: SeriesResult) -> Iterable[Dataset]:
    """What holds for the series as a whole."""
    yield _coded("CONTAINS", codes.STATUS, term("status", result.status))
    yield _text("CONTAINS", codes.STATEMENT, result.statement)
    if result.model is not None:
        yield _text("CONTAINS", codes.TRAINING_DATA, f"{result.model.model_id}: {result.model.training_data}")


def _novelty(result: SeriesResult, model: ModelUsed) -> Dataset:
    novel = "novel: the model abstains" if result.status is ResultStatus.NOVEL else "like the training data"
    return _group(
        "novelty",
        codes.NOVELTY,
        result,
        [
            *_algorithm(model),
            *_number("CONTAINS", codes.NOVELTY_SCORE, result.novelty_score),
            *_number("CONTAINS", codes.NOVELTY_THRESHOLD, result.novelty_threshold),
            *_number("CONTAINS", codes.HEADER_FIT, result.header_fit),
            _coded("CONTAINS", codes.STATUS, term("novelty", novel)),
        ],
    )


def _parameter(one: ParameterResult, result: SeriesResult) -> Dataset:
    """What the pixels say of a parameter, and what the header states."""
    concept = codes.PARAMETER_CODES[one.keyword]
    said: list[Dataset] = []
    if one.kind is not None and result.model is not None:
        said += _algorithm(result.model)
    if one.kind is ParameterKind.CONTINUOUS and isinstance(one.predicted_value, int | float):
        low, high = one.interval or (None, None)
        properties = [
            *_number("HAS PROPERTIES", codes.LOWER_BOUND, low, one.unit),
            *_number("HAS PROPERTIES", codes.UPPER_BOUND, high, one.unit),
            *_number("HAS PROPERTIES", codes.CONFIDENCE, one.confidence),
        ]
        said += _number("CONTAINS", concept, float(one.predicted_value), one.unit, properties)
    for label in one.classes:
        properties = [
            *_number("HAS PROPERTIES", codes.PROBABILITY, label.probability),
            *_number("HAS PROPERTIES", codes.CONFIDENCE, one.confidence),
        ]
        if meaning(label.value) != label.value:
            properties.append(_text("HAS PROPERTIES", codes.VERBATIM, label.value))
        said.append(_coded("CONTAINS", concept, term(one.keyword, label.value), properties))
    if one.by_association:
        said.append(_text("CONTAINS", codes.BY_ASSOCIATION, "may question the header, never contradict it"))
    number = canonical_number(one.header_value) if one.unit else None
    said += _number("CONTAINS", codes.HEADER_VALUE, number, one.unit)
    said += [
        _text("CONTAINS", concept_name, text)
        for concept_name, text in (
            (codes.HEADER_VALUE, one.header_value if number is None else ""),
            (codes.HEADER_PROBLEM, one.header_problem),
            (codes.SUGGESTED_VALUE, one.suggested_value),
            (codes.REASON, one.reason),
        )
        if text
    ]
    said += _number("CONTAINS", codes.HEADER_PROBABILITY, one.header_probability)
    said.append(_coded("CONTAINS", codes.VERDICT, term("verdict", one.verdict)))
    return _group(one.keyword, codes.PREDICTED_PARAMETER, result, said)


def _finding(one: FindingResult, number: int, result: SeriesResult) -> Dataset:
    by_pixels = one.raised_by is Witness.PIXELS and result.model is not None
    said = list(_algorithm(result.model if by_pixels else None, result.software_version))
    said += [
        _coded("CONTAINS", codes.CHECK, term("check", one.check)),
        _coded("CONTAINS", codes.SEVERITY, term("severity", one.severity)),
        _coded("CONTAINS", codes.KIND, term("kind", one.kind)),
        _coded("CONTAINS", codes.STATE, term("state", one.state)),
        _coded("CONTAINS", codes.RAISED_BY, term("witness", one.raised_by)),
    ]
    said += [
        _text("CONTAINS", concept, text)
        for concept, text in (
            (codes.ELEMENT, one.element),
            (codes.EVIDENCE, one.evidence),
            (codes.CONCLUSION, one.conclusion),
            (codes.HEADER_VALUE, one.header_value),
            (codes.SUGGESTED_VALUE, one.suggested_value),
            (codes.ACCEPTED_VALUE, one.accepted_value),
        )
        if text
    ]
    return _group(f"finding {number + 1}: {one.check} {one.element}", codes.HEADER_FINDING, result, said)


def _group(name: str, kind: Code, result: SeriesResult, said: Sequence[Dataset]) -> Dataset:
    """A measurement group (TID 1501)."""
    tracked = _uid("group", result.study_instance_uid, result.series_instance_uid, name)
    head = [
        _text("HAS OBS CONTEXT", codes.TRACKING_IDENTIFIER, name),
        _uid_reference("HAS OBS CONTEXT", codes.TRACKING_UID, tracked),
        _coded("CONTAINS", codes.FINDING, kind),
    ]
    return _container("CONTAINS", codes.MEASUREMENT_GROUP, [*head, *said], template="1501")


def _algorithm(model: ModelUsed | None, software_version: str = iap_node.__version__) -> Iterable[Dataset]:
    """Algorithm Identification (TID 4019): the model, or the audit where there is none."""
    if model is None:
        yield _text("HAS CONCEPT MOD", codes.ALGORITHM_NAME, AUDIT_ALGORITHM)
        yield _text("HAS CONCEPT MOD", codes.ALGORITHM_VERSION, software_version)
        return
    yield _text("HAS CONCEPT MOD", codes.ALGORITHM_NAME, model.name)
    yield _text("HAS CONCEPT MOD", codes.ALGORITHM_VERSION, f"{model.version} ({model.model_id})")
    yield _text("HAS CONCEPT MOD", codes.ALGORITHM_PARAMETERS, model.training_data)


# ---------------------------------------------------------------- content items


def _item(relationship: str | None, value_type: str, concept: Code | None) -> Dataset:
    item = Dataset()
    if relationship is not None:
        item.RelationshipType = relationship
    item.ValueType = value_type
    if concept is not None:
        item.ConceptNameCodeSequence = DicomSequence([_code(concept)])
    return item


def _code(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def _container(
    relationship: str | None, concept: Code, children: Sequence[Dataset], template: str | None = None
) -> Dataset:
    item = _item(relationship, "CONTAINER", concept)
    item.ContinuityOfContent = "SEPARATE"
    if template is not None:
        applied = Dataset()
        applied.MappingResource, applied.TemplateIdentifier = "DCMR", template
        item.ContentTemplateSequence = DicomSequence([applied])
    item.ContentSequence = DicomSequence(children)
    return item


def _text(relationship: str, concept: Code, text: str) -> Dataset:
    item = _item(relationship, "TEXT", concept)
    item.TextValue = "".join(one if one.isprintable() or one in "\n\t" else "?" for one in text)
    return item


def _coded(relationship: str, concept: Code, value: Code, properties: Sequence[Dataset] = ()) -> Dataset:
    item = _item(relationship, "CODE", concept)
    item.ConceptCodeSequence = DicomSequence([_code(value)])
    if properties:
        item.ContentSequence = DicomSequence(properties)
    return item


def _uid_reference(relationship: str, concept: Code, uid: str) -> Dataset:
    item = _item(relationship, "UIDREF", concept)
    item.UID = UID(uid)
    return item


def _number(
    relationship: str, concept: Code, value: float | None, unit: str = "", properties: Sequence[Dataset] = ()
) -> Iterable[Dataset]:
    """A numeric item with its unit; none where there is no finite number."""
    if value is None or value - value != 0:
        return
    item = _item(relationship, "NUM", concept)
    measured = Dataset()
    measured.NumericValue = f"{value:.9g}"
    measured.FloatingPointValue = float(value)
    measured.MeasurementUnitsCodeSequence = DicomSequence([_code(codes.UNITS[unit])])
    item.MeasuredValueSequence = DicomSequence([measured])
    if properties:
        item.ContentSequence = DicomSequence(properties)
    yield item


def _image(instance: ReferencedInstance) -> Dataset:
    item = _item("CONTAINS", "IMAGE", None)
    item.ReferencedSOPSequence = DicomSequence([_reference(instance)])
    return item


def _reference(instance: ReferencedInstance) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = UID(instance.sop_class_uid)
    item.ReferencedSOPInstanceUID = UID(instance.sop_instance_uid)
    return item
