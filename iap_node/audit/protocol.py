"""What a series states of its scanner and protocol: one canonical text per element, from all its instances.

Called by `habit` and by the audit of a folder. A series that is no MR image, or whose protocol has no name, is of no
protocol: nobody can tell which others it should be like.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from iap_node.audit.checks import tags, vendors
from iap_node.audit.checks.extent import extents_mm
from iap_node.audit.vocabulary import Vocabulary, serial_number
from iap_node.dicom.parameters import canonical_text
from iap_node.dicom.protocol import ELEMENTS, Form, Meaning, ProtocolElement
from iap_node.dicom.sop_classes import ENHANCED_MR_COLOR_IMAGE_STORAGE, MR_IMAGE_SOP_CLASSES
from iap_node.dicom.statements import Image, InstanceStatements
from iap_node.records import StatedProtocol

_IMAGES = MR_IMAGE_SOP_CLASSES | {ENHANCED_MR_COLOR_IMAGE_STORAGE}
_SERIES_DESCRIPTION = 0x0008103E
_PULSE_SEQUENCE_NAME = 0x00189005
_COMPUTED = frozenset({"FieldOfView", "NumberOfSlices"})

_FEWEST_STATING = 0.5  # of the images: what most of them leave out is not stated
_CONSTANT = 0.9  # of the images: one odd image of many is for `checks.constancy` to tell
_REGULAR = 0.5  # of the images with the commonest of several values: as many as with each other one, or nearly
_MOST_VALUES = 16  # that are several by design; more are none of a protocol
_FIRST_YEAR = 1980  # of whole-body MR; de-identification leaves dates before it
_MOST_CHARACTERS = 256  # of a value
_MOST_OF_KEY, _MOST_OF_NAME = 64, 131  # characters; LO has 64 (PS3.5 Table 6.2-1). A database's index takes no more

# What Image Type says of filters and corrections, not of the kind of image (Siemens).
_FILTERS = frozenset({"ND", "NORM", "DIS2D", "DIS3D", "FIL", "FILTERED", "MFSPLIT", "SH"})
_STEM = re.compile(r"[^\W\d]+")  # "*tfl3d1_16ns" is tfl: what follows counts echoes and segments


def stated_protocol(instances: Sequence[InstanceStatements], vocabulary: Vocabulary) -> StatedProtocol:
    """What the headers of one series state of scanner and protocol.

    Parameters
    ----------
    instances
        All instances of the series, in any order; those that are no MR images are left out.

    Returns
    -------
    StatedProtocol
        An element has a value where at least half of the images state it and nine in ten of those agree. Echo,
        repetition and inversion times and flip angles may be several by design: the regular ones stand side by side,
        in rising order. Elements that differ more are left out.
    """
    images = [(image, instance) for instance in instances if instance.sop_class_uid in _IMAGES
              for image in instance.images]  # fmt: skip
    if not images:
        return StatedProtocol("", "", "", "", "", ())
    values: dict[str, str] = {}
    for element in ELEMENTS:
        text = _stated(element, images)
        if text is not None:
            values[element.keyword] = text
    slices = _slices(images)
    if slices:
        values["NumberOfSlices"] = str(slices)
    manufacturer = values.get("Manufacturer", "")
    return StatedProtocol(
        manufacturer=_key(vocabulary.manufacturer(manufacturer)),
        model=_key(vocabulary.model(values.get("ManufacturerModelName", ""))),
        serial_number=_key(serial_number(values.get("DeviceSerialNumber", ""))),
        software_versions=values.get("SoftwareVersions", "").casefold(),
        protocol=_protocol(images, manufacturer, vocabulary),
        values=tuple(sorted(values.items())),
    )


def acquired_at(instances: Sequence[InstanceStatements]) -> datetime | None:
    """When a series was acquired, by its first usable date and time; the scanner's clock is taken for UTC."""
    for instance in instances:
        for date, time in (
            (tags.ACQUISITION_DATE, tags.ACQUISITION_TIME),
            (tags.SERIES_DATE, tags.SERIES_TIME),
            (tags.STUDY_DATE, tags.STUDY_TIME),
        ):
            day = instance.top.text(date)
            clock = (instance.top.text(time).partition(".")[0] + "000000")[:6]
            if len(day) == 8 and (day + clock).isascii() and (day + clock).isdigit() and int(day[:4]) >= _FIRST_YEAR:
                try:
                    return datetime.strptime(day + clock, "%Y%m%d%H%M%S").replace(tzinfo=UTC)
                except ValueError:
                    continue
    return None


_Images = Sequence[tuple[Image, InstanceStatements]]


def _weight(image: Image) -> int:
    """How many frames it stands for."""
    return max(1, len(image.places)) if image.is_frame else 1


def _stated(element: ProtocolElement, images: _Images) -> str | None:
    counted: Counter[str] = Counter()
    if element.keyword == "NumberOfSlices":
        return None  # counted
    if element.keyword == "FieldOfView":
        counted = _heights(element, images)
    else:
        for image, _ in images:
            found = image.stated.get(element.tag)
            if found is not None and found.raw:
                counted[found.raw] += _weight(image)
    if not counted:
        return None
    total = sum(_weight(image) for image, _ in images)
    texts: Counter[str] = Counter()
    for raw, n in counted.items():
        text = raw if element.keyword == "FieldOfView" else element.canonical(raw)
        if text is not None and len(text) <= _MOST_CHARACTERS:
            texts[text] += n
    if sum(texts.values()) < _FEWEST_STATING * total:
        return None
    merged = _merged(element, texts)
    if element.form is Form.SEVERAL:
        return _several(merged)
    text, n = max(merged.items(), key=lambda one: (one[1], one[0]))
    return text if n >= _CONSTANT * sum(texts.values()) else None


def _merged(element: ProtocolElement, texts: Counter[str]) -> dict[str, int]:
    """Texts that mean the same together, under the commonest of them."""
    if len(texts) == 1:
        return dict(texts)
    merged: dict[str, int] = {}
    meanings: dict[str, Meaning] = {}
    for text, n in sorted(texts.items(), key=lambda one: (-one[1], one[0])):
        meaning = element.meaning(text)
        same = next((other for other, known in meanings.items() if element.same(meaning, known)), None)
        if same is None:
            if len(merged) > _MOST_VALUES:
                break  # differs from image to image
            meanings[text] = meaning
        merged[same or text] = merged.get(same or text, 0) + n
    return merged


def _several(merged: dict[str, int]) -> str | None:
    least = _REGULAR * max(merged.values())
    regular = [text for text, n in merged.items() if n >= least]
    return "\\".join(sorted(regular, key=float)) if len(regular) <= _MOST_VALUES else None


def _heights(element: ProtocolElement, images: _Images) -> Counter[str]:
    """Field of View: rows times row spacing, mm, of one tile where the image is a sheet."""
    found: Counter[str] = Counter()
    known: dict[tuple[object, ...], str] = {}
    for image, instance in images:
        key = (image.text(tags.ROWS), image.text(tags.PIXEL_SPACING), instance.grid, instance.grid_problem)
        if key not in known:
            extents = extents_mm(image, instance)
            known[key] = "" if extents is None else element.parameter.text(extents[0])
        if known[key]:
            found[known[key]] += _weight(image)
    return found


def _slices(images: _Images) -> int:
    """How many places its slices have."""
    tiles = {instance.grid.count for _, instance in images if instance.grid is not None}
    if tiles:
        return max(tiles)
    places: set[str] = set()
    for image, _ in images:
        for place in image.places:
            found = place.get(tags.IMAGE_POSITION_PATIENT) or place.get(tags.SLICE_LOCATION)
            if found is not None and found.raw:
                places.add(found.raw)
    return len(places)


def _protocol(images: _Images, manufacturer: str, vocabulary: Vocabulary) -> str:
    """Which series are meant to be alike: the protocol's name, its sequence, and the kind of image that was made."""
    name, description = (_commonest(images, tag) for tag in (tags.PROTOCOL_NAME, _SERIES_DESCRIPTION))
    if vendors.by_name(manufacturer) == vendors.GE and name and description:
        name = f"{name} / {description}"  # there Protocol Name is that of the whole examination
    name = vocabulary.protocol(name or description)
    if not name:
        return ""
    sequence = (
        _stems(images, tags.SEQUENCE_NAME)
        or _stems(images, _PULSE_SEQUENCE_NAME)
        or " ".join(sorted({term for image, _ in images for term in image.terms(tags.SCANNING_SEQUENCE)}))
    )
    kinds = {term for text in {image.text(tags.IMAGE_TYPE) for image, _ in images} for term in text.upper().split("\\")}
    kind = " ".join(sorted(kinds - _FILTERS))
    return "\\".join((_key(name, _MOST_OF_NAME), _key(sequence), _key(kind)))


def _key(text: str, most: int = _MOST_OF_KEY) -> str:
    """Text of a key, which is joined with others by a backslash."""
    return " ".join(text.casefold().replace("\\", " ").split())[:most]


def _commonest(images: _Images, tag: int) -> str:
    texts = Counter(text for image, _ in images if (text := canonical_text(image.text(tag).replace("\\", " "))))
    return min(texts, key=lambda text: (-texts[text], text)) if texts else ""


def _stems(images: _Images, tag: int) -> str:
    stems = {found[0] for text in {image.text(tag) for image, _ in images} if (found := _STEM.search(text))}
    return " ".join(sorted(stems))
