"""The configuration's `retraining.agreement` section: when a model in shadow is promoted by itself.

Read by the infer worker at the end of a shadow (`iap_node.database.shadow`).
"""

from __future__ import annotations

from pydantic import Field

from iap_node.config.section import Section


class AgreementConfig(Section):
    """What a candidate must show beside the champion, over the series of its shadow; asked with `promote: by_gate`."""

    min_same: float = Field(
        0.9,
        ge=0,
        le=1,
        description="Share of series with the champion's answer, for each parameter that matters; fewer will do where "
        "the headers are right by the candidate more often.",
    )
    max_header_loss: float = Field(
        0.02, ge=0, le=1, description="Share of headers that agree with the champion and not with the candidate, net."
    )
    max_more_abstained: float = Field(
        0.02, ge=0, le=1, description="Share of series that it may call novel beyond those of the champion."
    )
    min_series: int = Field(20, ge=1, description="Fewer series with an answer of both show nothing of a parameter.")
