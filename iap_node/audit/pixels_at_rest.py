"""The pixels of files at rest: a series is read, predicted and held against its headers without a node.

Called by `iap-node audit --pixels`, which brings the predictor along; what reads the files is what the worker uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from iap_node.audit.pixels import pixel_findings
from iap_node.audit.verdicts import compare
from iap_node.config import AuditConfig, InferenceConfig
from iap_node.dicom.file_slice import InstanceFile
from iap_node.dicom.header import read_header_dataset, read_series_header
from iap_node.dicom.part10 import read_instance_header
from iap_node.dicom.pixels import read_series_slices
from iap_node.dicom.sop_classes import why_not_analysed
from iap_node.errors import UnreadableInstance, UnreadablePixels
from iap_node.records import Finding, HeaderComparison, SeriesHeader, SeriesPrediction


class Predictor(Protocol):
    """A model at work: `iap_node.inference.predictor.Predictor`, which would bring torch along."""

    def predict(
        self, slices: Sequence[NDArray[np.generic]], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        """The answer for one series from slices (rows, columns)."""


@dataclass(frozen=True, slots=True)
class PixelJudgement:
    """What the pixels say of one series and its headers."""

    header: SeriesHeader
    prediction: SeriesPrediction | None
    reason: str  # why there is no prediction
    comparisons: tuple[HeaderComparison, ...]
    findings: tuple[Finding, ...]
    problems: tuple[tuple[InstanceFile, str], ...]  # files that could not be used, and why


def judge_pixels(
    files: Sequence[InstanceFile],
    predictor: Predictor,
    audit: AuditConfig,
    inference: InferenceConfig,
    others: Sequence[Finding] = (),
) -> PixelJudgement:
    """Judge the files of one series as the node would.

    Parameters
    ----------
    files
        All instances of one series, in any order; those that are no MR images are left out.
    others
        What other witnesses found in this series.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    images: list[InstanceFile] = []
    datasets = []
    problems: list[tuple[InstanceFile, str]] = []
    for file in files:
        try:
            reason = why_not_analysed(read_instance_header(file))
            if reason is not None:
                problems.append((file, reason))
                continue
            datasets.append(read_header_dataset(file))
            images.append(file)
        except UnreadableInstance as error:
            problems.append((file, str(error)))
    header = read_series_header(datasets)
    prediction, reason = None, problems[0][1] if problems else "the series has no instances"
    if images:
        pixels = read_series_slices(
            images,
            max_slices=inference.max_slices,
            max_pixels_per_slice=inference.max_pixels_per_slice,
            max_bytes_per_instance=inference.max_bytes_per_instance,
        )
        problems.extend(pixels.problems)
        try:
            prediction, reason = predictor.predict(pixels.slices, audit.alpha, header), ""
        except UnreadablePixels as error:
            reason = pixels.problems[0][1] if pixels.problems else str(error)
    comparisons = compare(header, prediction, audit, reason or "")
    findings = pixel_findings(comparisons, header, prediction, audit, others)
    return PixelJudgement(header, prediction, reason or "", comparisons, findings, tuple(problems))
