"""Where series to learn from come from: a folder of DICOM files, the node's archive, the Duke collection.

A source names series and where their files are, one after the other; headers and pixels are read by the processes of
`training.prepare`, series by series. The sources stand in `folder`, `archive` and `duke`.
"""

from training.sources.archive import ArchiveSource
from training.sources.folder import FolderSource
from training.sources.series import Source, SourceSeries

__all__ = ["ArchiveSource", "FolderSource", "Source", "SourceSeries"]
