"""The files of a folder that may be instances. Called by import and by the audit of a folder."""

from __future__ import annotations

from pathlib import Path

DICOMDIR = "DICOMDIR"  # lists instances, is none itself (PS3.10 8.6)


def list_files(folder: Path) -> list[Path]:
    """All files below a folder, in order; DICOMDIRs left out, links not followed."""
    found = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return sorted(path for path in found if path.name != DICOMDIR)
