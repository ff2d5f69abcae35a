"""What the fuzz targets start from: headers of real instances where the corpus is at hand, and simulated ones.

Nothing of a real instance is kept: the corpus is read where it lies, and what is made of it goes to `build/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, MRImageStorage

from iap_node.dicom import elements as el
from iap_node.dicom.part10 import read_instance
from iap_node.errors import UnreadableInstance

MR_REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mr-real"
MAX_SEED_BYTES = 16_384  # longer headers make a fuzzer slow, not wise
SOP_INSTANCE_UID = "1.2.3.4.5"

_PIXELS = 0x00280010  # where headers are cut: the scan stops there


def simulated() -> Dataset:
    """A tiny MR image with a bit of everything that the scan meets."""
    ds = Dataset()
    ds.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.SOPClassUID = MRImageStorage
    ds.SOPInstanceUID = SOP_INSTANCE_UID
    ds.StudyDate = "20260131"
    ds.Modality = "MR"
    ds.Manufacturer = "SIEMENS"
    item = Dataset()
    item.CodeValue = "T-D1100"
    item.ConceptNameCodeSequence = Sequence([Dataset()])
    ds.ProcedureCodeSequence = Sequence([item])
    ds.SeriesDescription = "T1 \u8133".encode("iso2022_jp")
    ds.PatientID = "P1"
    ds.ProtocolName = "t1"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    ds.SeriesNumber = ds.InstanceNumber = "1"
    private = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    private.add_new(0x10, "OB", b"SV10\x04\x03\x02\x01")
    ds.SamplesPerPixel = 1
    ds.Rows = ds.Columns = 4
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.PixelData = bytes(32)
    ds["PixelData"].VR = "OW"
    return ds


def encode(transfer_syntax_uid: str | None = None, ds: Dataset | None = None) -> bytes:
    """A data set, the simulated one unless told, as a C-STORE carries it (not deflated)."""
    syntax = UID(transfer_syntax_uid or ExplicitVRLittleEndian)
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = syntax.is_little_endian, syntax.is_implicit_VR
    write_dataset(buffer, simulated() if ds is None else ds)
    return bytes(buffer.getvalue())


def instances() -> Iterator[tuple[str, bytes]]:
    """Transfer syntax UID and encoded header: one of each real series, and the simulated one in two encodings."""
    for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian):
        yield str(syntax), encode(syntax)
    series = sorted(path for path in MR_REAL.glob("*") if path.is_dir()) if MR_REAL.is_dir() else []
    for folder in series:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            try:
                header, dataset = read_instance(path)
            except UnreadableInstance:
                continue
            yield header.transfer_syntax_uid, _header_of(dataset, header.transfer_syntax_uid)[:MAX_SEED_BYTES]
            break


def _header_of(dataset: bytes, transfer_syntax_uid: str) -> bytes:
    """A data set up to its pixels, as it is written."""
    if transfer_syntax_uid in el.DEFLATED:
        return dataset
    _, end = el.walk(BytesIO(dataset), el.encoding_of(transfer_syntax_uid), frozenset(), _PIXELS)
    return dataset[: end.start] if end is not None else dataset
