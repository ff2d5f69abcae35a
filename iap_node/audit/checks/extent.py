"""How large one slice is, as the header states it: called by the checks that compare sizes."""

from __future__ import annotations

from iap_node.audit.checks import tags
from iap_node.dicom.parameters import canonical_matrix
from iap_node.dicom.statements import Image, InstanceStatements


def cells(image: Image, instance: InstanceStatements) -> tuple[float, float] | None:
    """Rows and columns of one slice: of one tile where the image is a sheet."""
    if instance.grid is not None:
        return float(instance.grid.tile_rows), float(instance.grid.tile_columns)
    rows, columns = image.number(tags.ROWS), image.number(tags.COLUMNS)
    return (rows, columns) if rows and columns and not instance.grid_problem else None


def extents_mm(image: Image, instance: InstanceStatements) -> tuple[float, float] | None:
    """Height and width of one slice, mm."""
    size, spacing = cells(image, instance), image.numbers(tags.PIXEL_SPACING, 2)
    if size is None or spacing is None or min(spacing) <= 0:
        return None
    return size[0] * spacing[0], size[1] * spacing[1]


def matrix_steps(image: Image) -> tuple[int, int] | None:
    """Frequency and phase steps of Acquisition Matrix; None where it does not state exactly one of each."""
    text = canonical_matrix(image.text(tags.ACQUISITION_MATRIX)) if image.text(tags.ACQUISITION_MATRIX) else None
    if text is None:
        return None
    frequency, _, phase = text.partition("x")
    return int(frequency), int(phase)
