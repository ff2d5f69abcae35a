"""The pixels of a folder's series as a further witness: each series read, predicted and held against its headers.

Called by `iap-node audit --pixels` after the headers, with a predictor that the command loads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from iap_node.audit.folder import AuditedSeries, FolderAudit, UnreadFile
from iap_node.audit.pixels_at_rest import Predictor, judge_pixels
from iap_node.config import AuditConfig, InferenceConfig


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
    series: list[AuditedSeries] = []
    unread = list(audit.unread)
    for one in audit.series:
        try:
            judgement = judge_pixels(one.files, predictor, config, inference, one.findings)
            series.append(dataclasses.replace(one, pixels=judgement, findings=one.findings + judgement.findings))
        except OSError as error:
            series.append(one)
            path = one.files[0] if error.filename is None else type(one.files[0])(error.filename)
            unread.append(UnreadFile(path, error.strerror or type(error).__name__))
        judged()
    return dataclasses.replace(audit, series=tuple(series), unread=tuple(unread))
