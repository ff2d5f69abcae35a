"""The other witnesses about a folder's series: the pixels, and then all of them about each finding.

Called by `iap-node audit` after the headers; the predictor is the command's to load. What the habit says is known from
the other series of the folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from iap_node.audit.folder import AuditedSeries, FolderAudit, UnreadFile
from iap_node.audit.witnesses import hear
from iap_node.config import AuditConfig, InferenceConfig

if TYPE_CHECKING:
    from iap_node.audit.pixels_at_rest import Predictor


def with_pixels(
    audit: FolderAudit,
    predictor: Predictor,
    config: AuditConfig,
    inference: InferenceConfig,
    judged: Callable[[], None] = lambda: None,
) -> FolderAudit:
    """The same audit, with what the pixels say of each series among its findings.

    A series whose files cannot be read any more stays without a judgement, and the file is told.

    Parameters
    ----------
    judged
        Called after each series.
    """
    from iap_node.audit.pixels_at_rest import judge_pixels  # decoders, which an audit of headers does not need

    series: list[AuditedSeries] = []
    unread = list(audit.unread)
    for one in audit.series:
        try:
            judgement = judge_pixels(one.files, predictor, config, inference, one.findings)
            series.append(dataclasses.replace(one, pixels=judgement, findings=one.findings + judgement.findings))
        except OSError as error:
            series.append(one)
            path = Path(error.filename) if error.filename else one.folders[0]
            unread.append(UnreadFile(path, error.strerror or type(error).__name__))
        judged()
    return dataclasses.replace(audit, series=tuple(series), unread=tuple(unread))


def heard(audit: FolderAudit) -> FolderAudit:
    """The same audit, each finding with the testimonies of all witnesses and what follows from them."""
    series = []
    for one in audit.series:
        pixels = one.pixels
        findings = hear(
            one.findings,
            comparisons=() if pixels is None else pixels.comparisons,
            prediction=None if pixels is None else pixels.prediction,
            habit=one.habit or (lambda element: None),
        )
        series.append(dataclasses.replace(one, findings=findings))
    return dataclasses.replace(audit, series=tuple(series))
