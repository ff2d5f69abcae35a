"""The configuration's `retraining` section: when the model is trained anew on the archive, how, and what it must show.

Read by the scheduler, which starts `python -m training.retrain`, and by that process itself.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from iap_node.config.agreement import AgreementConfig
from iap_node.config.crontab import crontab
from iap_node.config.section import Section, did_you_mean
from iap_node.dicom.parameters import BY_KEYWORD


class GuardsConfig(Section):
    """What keeps wrong labels out of training: looked at before anything is fitted."""

    class_min_patients: int = Field(
        3, ge=1, description="A class that the model does not know yet is learned from so many training patients."
    )
    confident_probability: float = Field(
        0.95, gt=0.5, lt=1, description="From here on the model at work counts as sure of a value."
    )
    max_contradicted: float = Field(
        0.05,
        ge=0,
        le=1,
        description="Share of a parameter's labels that the model at work is sure are wrong; above it nothing is "
        "trained.",
    )


class GatesConfig(Section):
    """What a candidate must show on patients that are never trained on, beside the model at work."""

    parameters: tuple[str, ...] = Field(
        (
            "Manufacturer",
            "ManufacturerModelName",
            "ScanOptions",
            "MagneticFieldStrength",
            "AcquisitionMatrix",
            "EchoTime",
            "RepetitionTime",
        ),
        min_length=1,
        description="DICOM keywords of the parameters that matter here.",
    )
    overall: Literal["better", "not_worse"] = Field(
        "better", description="What must be shown of the mean over the parameters that matter."
    )
    allowed_loss: float = Field(
        0.02, ge=0, lt=1, description="Loss of one parameter, in shares of right answers, that does not count."
    )
    min_patients: int = Field(30, ge=2, description="Fewer held-out patients show nothing.")
    max_ece: float = Field(
        0.06, gt=0, lt=1, description="Expected calibration error of a parameter that matters, beyond chance."
    )
    coverage: tuple[float, float] = Field(
        (0.92, 1.0), description="Least and largest share of values inside conformal sets at alpha 0.05."
    )
    max_abstained: float = Field(
        0.1, ge=0, le=1, description="Share of held-out series that the candidate may call novel."
    )

    @field_validator("parameters")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for keyword in value:
            if keyword not in BY_KEYWORD:
                raise ValueError(f"unknown parameter {keyword!r}{did_you_mean(keyword, BY_KEYWORD)}")
        return value

    @field_validator("coverage")
    @classmethod
    def _a_window(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError("write the least and the largest share: [0.92, 1.0]")
        return value


class RetrainingConfig(Section):
    """Training of the node's model on its own archive, in a process of its own."""

    cron: str | None = None
    recipe: Literal["reference", "paper"] = "reference"
    start: Literal["champion", "scratch"] = "champion"
    learn_novel: bool = False
    min_new_series: int = Field(200, ge=1)
    epochs: int | None = Field(None, ge=1)
    minutes: float | None = Field(240.0, gt=0)
    seed: int = Field(2026, ge=0)
    niceness: int = Field(19, ge=0, le=19)
    threads: int = Field(1, ge=1)
    guards: GuardsConfig = GuardsConfig()
    gates: GatesConfig = GatesConfig()
    shadow_series: int = Field(200, ge=0)
    promote: Literal["by_hand", "by_gate"] = "by_hand"
    agreement: AgreementConfig = AgreementConfig()
    keep_candidates: int = Field(5, ge=1)

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str | None) -> str | None:
        if value is not None:
            crontab(value)
        return value
