"""A folder of DICOM files as a source: read and audited as `iap-node audit` does, headers with findings left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from iap_node.audit.folder import AuditedSeries, FolderAudit, audit_files
from iap_node.dicom.folder import list_files
from iap_node.dicom.part10 import read_instance_header
from iap_node.errors import UnreadableInstance
from iap_node.listener.patients import patient_hash
from training.dataset import DataSetError
from training.sources.series import SourceSeries, against_the_whole, left_out_labels


class FolderSource:
    """All series below a folder.

    Parameters
    ----------
    folder
        Files are found whatever their names and depth; links are not followed.
    patient_key
        Keys the patient hashes (`iap_node.listener.patients`): the same key gives a patient the same split, here, in
        other folders, and in the archive whose key it is.
    processes
        How many read and check headers at once.
    keep_out_open_findings
        Whether a value is no label where the header checks, or what is usual among the folder's series, speak against
        it.
    read
        Told of so many files more that were looked at; each is looked at twice.
    """

    def __init__(
        self,
        folder: Path,
        patient_key: bytes,
        *,
        processes: int = 1,
        keep_out_open_findings: bool = True,
        images: str = "real MR series from a folder of DICOM files",
        read: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._folder, self._key, self._images = folder, patient_key, images
        self._processes, self._keep_out, self._read = processes, keep_out_open_findings, read
        self._audit: FolderAudit | None = None

    @property
    def images(self) -> str:
        """See `Source`."""
        return self._images

    @property
    def identity(self) -> str:
        """See `Source`; the folder may grow while a data set is made, and may be mounted elsewhere."""
        return f"folder; open findings {'left out' if self._keep_out else 'kept'}"

    def count(self) -> int:
        """How many series there are; audits the folder at the first call.

        Raises
        ------
        DataSetError
            There is no such folder, or no series in it.
        """
        return len(self._audited().series)

    def series(self) -> Iterator[SourceSeries]:
        """See `Source`: in the order of their UIDs."""
        for one in sorted(self._audited().series, key=lambda one: one.series_key):
            yield self._series(one)

    def unread(self) -> dict[str, int]:
        """Files that are no instances, damaged or cannot be opened: how many by reason."""
        counted: dict[str, int] = {}
        for one in self._audited().unread:
            counted[one.reason] = counted.get(one.reason, 0) + 1
        return counted

    def _audited(self) -> FolderAudit:
        if self._audit is None:
            if not self._folder.is_dir():
                raise DataSetError(f"{self._folder} is no folder; name one that holds DICOM files")
            self._audit = audit_files(
                self._folder, list_files(self._folder), processes=self._processes, read=self._read
            )
            if not self._audit.series:
                raise DataSetError(f"no DICOM instance below {self._folder}; name a folder that holds some")
        return self._audit

    def _series(self, audited: AuditedSeries) -> SourceSeries:
        findings = audited.findings if self._keep_out else ()
        whole = against_the_whole(findings)
        return SourceSeries(
            study_instance_uid=audited.study_instance_uid,
            series_instance_uid=audited.series_instance_uid,
            patient=self._patient(audited.files),
            files=audited.files,
            reference=f"{len(audited.files)} files",
            left_out=left_out_labels(findings),
            dropped_reason=None if whole is None else f"an open finding against the whole header: {whole}",
        )

    def _patient(self, files: Sequence[Path]) -> str:
        for path in files:
            try:
                return patient_hash(self._key, read_instance_header(path))
            except (UnreadableInstance, OSError):
                continue
        raise DataSetError(f"{self._folder} changes while it is read; try again when it does not")
