"""The statements of the 39 real series, read once, and what the header checks say of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from iap_node.audit.checks import check_series
from iap_node.dicom.statements import InstanceStatements, read_statements
from iap_node.records import Finding


@pytest.fixture(scope="session")
def corpus(mr_real: Path) -> dict[str, list[InstanceStatements]]:
    """By folder."""
    return {
        folder.name: [read_statements(path) for path in sorted(folder.iterdir())]
        for folder in sorted(mr_real.iterdir())
        if folder.is_dir()
    }


@pytest.fixture(scope="session")
def findings(corpus: dict[str, list[InstanceStatements]]) -> dict[str, tuple[Finding, ...]]:
    """By folder."""
    return {folder: check_series(instances) for folder, instances in corpus.items()}
