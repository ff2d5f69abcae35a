"""The elements of a protocol: which it fixes, which people adapt to the patient, and how close two values are equal.

Called by `iap_node.config` (whose tolerances may be set for each), and by the audit, which learns from them what a
scanner usually writes. Where an element is an acquisition parameter of `parameters`, its canonical form, unit and
tolerance are those.

References
----------
Sinha & Raamana 2024, Neuroinformatics, doi 10.1007/s12021-024-09668-4 (mrQA: which parameters a protocol is compared
by); Covitz et al. 2022, NeuroImage, doi 10.1016/j.neuroimage.2022.119609 (CuBIDS: a tolerance for each parameter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from iap_node.dicom.parameters import (
    BY_KEYWORD,
    AcquisitionParameter,
    Nature,
    canonical_matrix,
    canonical_number,
    canonical_text,
)

Meaning = tuple[float, ...] | str  # what of two texts is compared: numbers, or folded words

ADAPTED_FACTOR = 2.0  # an adapted number beyond this factor of all that was ever written is out of proportion


# In-plane Phase Encoding Direction in enhanced and in classic form (PS3.3 C.8.13.5.3, C.8.3.1).
_CLASSIC_TERMS = {"column": "col"}


class Role(StrEnum):
    """What an element has to do with the protocol."""

    FIXED = "fixed"  # the protocol sets it: another value is a deviation
    ADAPTED = "adapted"  # people set it for the patient: nothing but a value out of all proportion is told
    STUDY = "study"  # no protocol knows it: it is compared with the other series of the study alone


class Form(StrEnum):
    """How the values of an element are read."""

    ONE = "one"  # one value per series
    SEVERAL = "several"  # a series may have several by design, which together are the protocol: echo times
    TERMS = "terms"  # a set of words: their order says nothing


@dataclass(frozen=True, slots=True)
class ProtocolElement:
    """One element of a protocol. Numbers are equal within the parameter's tolerance, words whatever their case."""

    parameter: AcquisitionParameter
    why: str  # of its role and its tolerance
    role: Role = Role.FIXED
    form: Form = Form.ONE
    weighs: bool = False  # contrast or geometry of the image follow from it
    divides: bool = True  # if it is fixed: another value makes a variant. False: people choose, new values are told

    @property
    def keyword(self) -> str:
        return self.parameter.keyword

    @property
    def tag(self) -> int:
        group, number = self.parameter.tag
        return group << 16 | number

    def canonical(self, raw: str) -> str | None:
        """The canonical text of one value as written; None where it is empty or unusable."""
        nature = self.parameter.nature
        if nature is Nature.NUMBER:
            number = canonical_number(raw)
            return None if number is None else self.parameter.text(number)
        if nature is Nature.MATRIX:
            return canonical_matrix(raw)
        if self.form is Form.TERMS:
            return "\\".join(term for part in raw.split("\\") if (term := canonical_text(part))) or None
        return canonical_text(raw)

    def meaning(self, text: str) -> Meaning:
        """What of a canonical text is compared with others."""
        nature = self.parameter.nature
        if nature is Nature.NUMBER:
            numbers = [canonical_number(part) for part in text.split("\\")]
            found = tuple(number for number in numbers if number is not None)
            return found if len(found) == len(numbers) else text.casefold()
        if nature is Nature.MATRIX:  # the steps in phase follow the patient's width
            frequency = canonical_number(text.partition("x")[0])
            return text.casefold() if frequency is None else (frequency,)
        folded = text.casefold()
        if self.form is Form.TERMS:
            return "\\".join(sorted(set(folded.split("\\"))))
        return _CLASSIC_TERMS.get(folded, folded)

    def same(self, one: Meaning, reference: Meaning, tolerance: float | None = None) -> bool:
        """Whether two values mean the same; `tolerance`, in the element's unit, stands for its own."""
        if isinstance(one, str) or isinstance(reference, str):
            return one == reference
        return len(one) == len(reference) and all(
            abs(a - b) <= (self.parameter.tolerance(b) if tolerance is None else tolerance) + 1e-9
            for a, b in zip(one, reference, strict=True)
        )

    def text(self, value: str) -> str:
        """A canonical text as people read it, unit included."""
        return f"{value.replace(chr(92), ', ')} {self.parameter.unit}".rstrip()


def _number(
    keyword: str, tag: int, title: str, unit: str = "", absolute: float = 0.0, relative: float = 0.0
) -> AcquisitionParameter:
    return AcquisitionParameter(keyword, (tag >> 16, tag & 0xFFFF), title, Nature.NUMBER, unit, absolute, relative)


def _text(keyword: str, tag: int, title: str) -> AcquisitionParameter:
    return AcquisitionParameter(keyword, (tag >> 16, tag & 0xFFFF), title, Nature.TEXT)


ELEMENTS: tuple[ProtocolElement, ...] = (
    ProtocolElement(
        _text("ImageType", 0x00080008, "Image Type"),
        "filters and normalisation are set in the protocol; what kind of image it is belongs to the protocol's name",
        form=Form.TERMS,
    ),
    ProtocolElement(
        BY_KEYWORD["ManufacturerModelName"],
        "one serial number is one scanner; spellings of its model are known by the vocabulary",
    ),
    ProtocolElement(
        BY_KEYWORD["ContrastBolusAgent"],
        "a physician's choice for the patient, and absent where none was given",
        Role.ADAPTED,
    ),
    ProtocolElement(
        _text("ScanningSequence", 0x00180020, "Scanning Sequence"),
        "the sequence itself; its words have no order",
        form=Form.TERMS,
        weighs=True,
    ),
    ProtocolElement(
        _text("SequenceVariant", 0x00180021, "Sequence Variant"),
        "spoiling, preparation, oversampling: set in the protocol; its words have no order",
        form=Form.TERMS,
    ),
    ProtocolElement(
        BY_KEYWORD["ScanOptions"],
        "fat saturation, partial Fourier: set in the protocol; vendors write the words in any order",
        form=Form.TERMS,
    ),
    ProtocolElement(
        _text("MRAcquisitionType", 0x00180023, "MR Acquisition Type"), "2D or 3D is the protocol's", weighs=True
    ),
    ProtocolElement(_text("AngioFlag", 0x00180025, "Angio Flag"), "set in the protocol"),
    ProtocolElement(BY_KEYWORD["SliceThickness"], "set in the protocol; scanners print it exactly", weighs=True),
    ProtocolElement(
        BY_KEYWORD["RepetitionTime"],
        "set in the protocol; where slices are acquired in turn (2D) it follows their number: a series with another "
        "number of slices is not compared",
        form=Form.SEVERAL,
        weighs=True,
    ),
    ProtocolElement(
        BY_KEYWORD["EchoTime"],
        "set in the protocol; where a scanner takes the shortest possible it follows the geometry, which is learned",
        form=Form.SEVERAL,
        weighs=True,
    ),
    ProtocolElement(
        _number("InversionTime", 0x00180082, "Inversion Time", "ms", 0.1, 0.01),
        "set in the protocol; 1 %, as of the other times",
        form=Form.SEVERAL,
        weighs=True,
    ),
    ProtocolElement(
        _number("NumberOfAverages", 0x00180083, "Number of Averages", absolute=0.01), "set in the protocol; counted"
    ),
    ProtocolElement(
        _number("ImagingFrequency", 0x00180084, "Imaging Frequency", "MHz", relative=1e-3),
        "the magnet's; it drifts and is ramped anew by less than a thousandth, another nucleus is another world",
    ),
    ProtocolElement(_text("ImagedNucleus", 0x00180085, "Imaged Nucleus"), "set in the protocol"),
    ProtocolElement(BY_KEYWORD["MagneticFieldStrength"], "the magnet's", weighs=True),
    ProtocolElement(
        _number("SpacingBetweenSlices", 0x00180088, "Spacing Between Slices", "mm", 0.05),
        "people widen the gap until the slices reach",
        Role.ADAPTED,
    ),
    ProtocolElement(
        _number("NumberOfPhaseEncodingSteps", 0x00180089, "Number of Phase Encoding Steps", absolute=0.5),
        "follows the patient's width",
        Role.ADAPTED,
    ),
    ProtocolElement(
        _number("EchoTrainLength", 0x00180091, "Echo Train Length", absolute=0.5), "set in the protocol; counted"
    ),
    ProtocolElement(
        _number("PercentSampling", 0x00180093, "Percent Sampling", "%", 1.0),
        "set in the protocol; where a scanner keeps the voxel instead it follows the field of view, which is learned",
    ),
    ProtocolElement(
        _number("PercentPhaseFieldOfView", 0x00180094, "Percent Phase Field of View", "%", 1.0),
        "follows the patient's width",
        Role.ADAPTED,
    ),
    ProtocolElement(
        _number("PixelBandwidth", 0x00180095, "Pixel Bandwidth", "Hz", 0.5, 0.01),
        "set in the protocol; printed whole or with three digits; where it follows the field of view, that is learned",
        weighs=True,
    ),
    ProtocolElement(
        _number("ReconstructionDiameter", 0x00181100, "Reconstruction Diameter", "mm", 1.0),
        "people fit the field of view to the patient",
        Role.ADAPTED,
    ),
    ProtocolElement(
        _text("ReceiveCoilName", 0x00181250, "Receive Coil Name"),
        "the examination's coil; Siemens names the elements that were switched on, which is learned",
        divides=False,
    ),
    ProtocolElement(_text("TransmitCoilName", 0x00181251, "Transmit Coil Name"), "the scanner's"),
    ProtocolElement(
        BY_KEYWORD["AcquisitionMatrix"],
        "the steps in frequency are set in the protocol; those in phase follow the patient's width and do not count",
        weighs=True,
    ),
    ProtocolElement(
        _text("InPlanePhaseEncodingDirection", 0x00181312, "In-plane Phase Encoding Direction"),
        "set in the protocol; where people turn it for the patient, that is learned",
    ),
    ProtocolElement(
        BY_KEYWORD["FlipAngle"],
        "set in the protocol; where a scanner lowers it for heavy patients, that is learned",
        form=Form.SEVERAL,
        weighs=True,
    ),
    ProtocolElement(_text("VariableFlipAngleFlag", 0x00181315, "Variable Flip Angle Flag"), "set in the protocol"),
    ProtocolElement(
        BY_KEYWORD["PatientPosition"],
        "most examinations are done in one position; where people lie as they can, that is learned",
        divides=False,
    ),
    ProtocolElement(
        _number("NumberOfSlices", 0x00540081, "Number of Slices", absolute=0.5),
        "people add slices until they reach; counted by their places, whatever the header says",
        Role.ADAPTED,
    ),
    ProtocolElement(BY_KEYWORD["FieldOfView"], "people fit the field of view to the patient", Role.ADAPTED),
    ProtocolElement(BY_KEYWORD["Manufacturer"], "the scanner's", Role.STUDY),
    ProtocolElement(_text("DeviceSerialNumber", 0x00181000, "Device Serial Number"), "the scanner's", Role.STUDY),
    ProtocolElement(
        _text("SoftwareVersions", 0x00181020, "Software Versions"),
        "a habit is one software's; nobody changes it within a study",
        Role.STUDY,
    ),
    ProtocolElement(
        _text("FrameOfReferenceUID", 0x00200052, "Frame of Reference UID"),
        "the patient lies still on one scanner as long as it stands",
        Role.STUDY,
    ),
)

BY_NAME: Mapping[str, ProtocolElement] = {element.keyword: element for element in ELEMENTS}
FIXED = tuple(element for element in ELEMENTS if element.role is Role.FIXED)


def keywords_with_tolerance() -> Iterable[str]:
    """The elements whose tolerance may be set: numbers that a protocol fixes."""
    return (element.keyword for element in FIXED if element.parameter.nature is Nature.NUMBER)
