"""Import of a zip and of a DICOMDIR: streamed into the spool, hostile ones refused member by member."""

from __future__ import annotations

import io
import os
import shutil
import stat
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.filewriter import dcmwrite

from iap_node.database.tables import InstanceRow, QuarantineRow
from iap_node.dicom import media
from iap_node.dicom.media import open_media
from iap_node.errors import PermanentError
from iap_node.listener.folder import import_files
from tests.integration.listener.conftest import Node, encode, make_instance

pytestmark = pytest.mark.parametrize("database", ["sqlite"], indirect=True)

MAX_BYTES = 100_000


def part10(ds: Dataset) -> bytes:
    buffer = io.BytesIO()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


@pytest.fixture
def node(make_node: Callable[..., Node]) -> Node:
    return make_node(start=False)


def run(node: Node, path: Path, max_bytes: int = MAX_BYTES) -> dict[str, tuple[str, str]]:
    """Outcome and reason of each file."""
    with open_media(path, max_bytes) as files:
        return {str(one.path): (one.outcome.value, one.reason) for one in import_files(files, node.intake)}


def test_a_zip_is_filed_and_nothing_of_it_is_unpacked(node: Node, tmp_path: Path) -> None:
    first, second = make_instance(), make_instance(InstanceNumber=2, PixelData=bytes(50_000))
    path = tmp_path / "study.zip"
    broken = part10(make_instance())[:400]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.dcm", part10(first))
        archive.writestr("../../outside.dcm", part10(second))  # a name is looked at, and never written to
        archive.writestr("/absolute.dcm", part10(first))
        archive.writestr("readme.txt", "hello")
        archive.writestr("broken.dcm", broken)
        archive.writestr("DICOMDIR", "x")
        archive.writestr("nested.zip", b"PK\x03\x04" + bytes(40))
    before = {found for found in tmp_path.rglob("*") if "spool" not in found.parts}
    told = run(node, path)
    assert {name: outcome for name, (outcome, _) in told.items()} == {
        "a/1.dcm": "stored", "../../outside.dcm": "stored", "/absolute.dcm": "duplicate", "readme.txt": "not_dicom",
        "broken.dcm": "quarantined", "nested.zip": "not_dicom",
    }  # fmt: skip
    assert {found for found in tmp_path.rglob("*") if "spool" not in found.parts} >= before
    assert not (tmp_path.parent / "outside.dcm").exists() and not Path("/absolute.dcm").exists()
    for ds in (first, second):
        assert node.stored_dataset(ds.SOPInstanceUID)[1] == encode(ds)
    assert len(node.rows(QuarantineRow)) == 1


def test_what_a_zip_should_not_hold_is_refused_with_the_reason(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media, "BOMB_BYTES", 20_000)
    monkeypatch.setattr(media, "BOMB_RATIO", 50)
    good = make_instance()
    path = tmp_path / "hostile.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good", part10(good))
        archive.writestr("bomb", part10(make_instance(PixelData=bytes(80_000))))
        archive.writestr("large", part10(make_instance(PixelData=os.urandom(MAX_BYTES))))
        archive.writestr(link, "/etc/passwd")
        archive.writestr("secret", part10(make_instance()))
        archive.writestr("damaged", part10(make_instance(PixelData=os.urandom(4000))))
    content = bytearray(path.read_bytes())
    secret = content.rindex(b"PK\x01\x02", 0, content.rindex(b"secret"))
    content[secret + 8] |= 1  # general purpose bit 0: encrypted
    with zipfile.ZipFile(path) as archive:
        damaged = archive.getinfo("damaged")
    content[damaged.header_offset + 200 + damaged.compress_size // 2] ^= 0xFF
    path.write_bytes(content)
    told = run(node, path)
    assert told.pop("good") == ("stored", "")
    assert {outcome for outcome, _ in told.values()} == {"refused"}
    for name, reason in (
        ("bomb", "zip bomb"), ("large", "max_instance_mb"), ("link", "link"), ("secret", "encrypted"),
        ("damaged", "damaged"),
    ):  # fmt: skip
        assert reason in told[name][1]
    assert [row.sop_instance_uid for row in node.rows(InstanceRow)] == [good.SOPInstanceUID]
    assert len(node.files()) == 1


def test_members_that_share_their_bytes_are_refused(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "overlap.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", part10(make_instance()))
        archive.writestr("b", part10(make_instance()))
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<L", 0)  # both begin where the first one does
    path.write_bytes(content)
    assert {outcome for outcome, _ in run(node, path).values()} == {"refused"}
    assert not node.rows(InstanceRow)


def test_a_zip_with_a_list_that_fills_the_memory_is_not_opened(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"1")
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 12 : end + 16] = struct.pack("<L", 100 * 1024**2)
    path.write_bytes(content)
    with pytest.raises(PermanentError, match="too many members"), open_media(path, MAX_BYTES):
        pass


def test_a_dicomdir_made_by_dcmtk_is_followed_and_goes_nowhere_else(
    node: Node, tmp_path: Path, program: Callable[[str, str], str]
) -> None:
    folder = tmp_path / "disc"
    (folder / "IMAGES").mkdir(parents=True)
    kept = make_instance(StudyDate="20260101", StudyTime="10", StudyID="1", SeriesNumber=1, PatientSex="O")
    names = []
    for number, ds in enumerate((kept, make_instance(InstanceNumber=2, StudyID="1", SeriesNumber=1)), start=1):
        names.append(f"IMAGES/IM{number}")
        (folder / names[-1]).write_bytes(part10(ds))
    gone = folder / names[1]
    (folder / "IMAGES" / "STRANGER").write_bytes(part10(make_instance(InstanceNumber=3)))
    made = subprocess.run(
        [program("dcmmkdir", "dcmtk"), "-Pgp", "+I", "-W", *names], cwd=folder, capture_output=True, timeout=60
    )
    assert (folder / "DICOMDIR").is_file(), made.stderr
    gone.unlink()
    (folder / "IMAGES" / "IM1").rename(folder / "IMAGES" / "im1")  # as some copy discs
    (folder / "DICOMDIR").rename(folder / "dicomdir")
    told = run(node, folder / "dicomdir")
    assert [outcome for outcome, _ in told.values()] == ["stored", "refused"]
    assert told["IMAGES/IM2"][1] == "the DICOMDIR names it, but it is not there"
    assert [row.sop_instance_uid for row in node.rows(InstanceRow)] == [kept.SOPInstanceUID]
    # the same DICOMDIR, whose folder leads elsewhere
    outside = tmp_path / "outside"
    shutil.move(folder / "IMAGES", outside)
    (folder / "IMAGES").symlink_to(outside)
    assert "outside of its folder" in run(node, folder / "dicomdir")["IMAGES/IM1"][1]
    assert "outside" in media._find(folder, ("..", "outside", "im1")).obstacle  # type: ignore[union-attr]


def test_a_single_file_and_a_dicomdir_that_is_none(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    path.write_bytes(part10(make_instance()))
    assert run(node, path)[str(path)] == ("stored", "")
    nonsense = tmp_path / "DICOMDIR"
    nonsense.write_bytes(b"nonsense")
    with pytest.raises(PermanentError, match="cannot be read as a DICOMDIR"), open_media(nonsense, MAX_BYTES):
        pass
