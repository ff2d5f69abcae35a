"""What a model in shadow says beside the champion, how far the two agree, and what follows when its series are over.

Its predictions stand in `prediction` like the champion's; the judgement names the champion's, and nothing else looks
at the others. Written by the infer worker, shown by `iap-node models agreement` and the console.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from iap_node.config.agreement import AgreementConfig
from iap_node.database import models
from iap_node.database.insertion import insert_if_new
from iap_node.database.models import Gate, RegisteredModel
from iap_node.database.payloads import from_payload, to_payload
from iap_node.database.tables import JudgementRow, ModelEventKind, ModelState, PredictionRow
from iap_node.dicom.parameters import PARAMETERS, AcquisitionParameter
from iap_node.records import Job, ParameterKind, SeriesPrediction

MOST_SERIES = 5000  # that one comparison reads


@dataclass(frozen=True, slots=True)
class ParameterAgreement:
    """How far two models agree about one parameter, over the series about which both spoke."""

    keyword: str
    n: int  # series for which both gave a value
    n_same: int  # classes: the same first answer, within tolerance; numbers: inside the champion's interval
    mean_difference: float | None  # absolute, in the parameter's unit; None for classes
    n_stated: int  # series of these whose header states a usable value
    n_champion_right: int  # series of these in which the champion agrees with the header
    n_candidate_right: int

    @property
    def share_same(self) -> float | None:
        """Share of series with the same answer."""
        return self.n_same / self.n if self.n else None

    @property
    def champion_share(self) -> float | None:
        """Share of headers with which the champion agrees."""
        return self.n_champion_right / self.n_stated if self.n_stated else None

    @property
    def candidate_share(self) -> float | None:
        """Share of headers with which the candidate agrees."""
        return self.n_candidate_right / self.n_stated if self.n_stated else None


@dataclass(frozen=True, slots=True)
class Agreement:
    """A model in shadow beside those whose predictions counted."""

    model_id: str
    champions: tuple[str, ...]  # whose predictions counted meanwhile
    n_wanted: int | None  # series that the shadow is to last
    n_series: int  # that both judged
    n_same_novelty: int  # series that both, or neither, called novel
    n_novel_champion: int
    n_novel_candidate: int
    parameters: tuple[ParameterAgreement, ...]  # in the order of the parameters' table; those that both predict

    @property
    def share_same_novelty(self) -> float | None:
        """Share of series about which both spoke, or neither."""
        return self.n_same_novelty / self.n_series if self.n_series else None


@dataclass(slots=True)
class _Tally:
    n: int = 0
    same: int = 0
    stated: int = 0
    champion_right: int = 0
    candidate_right: int = 0
    differences: list[float] = field(default_factory=list)


class _Answer(NamedTuple):
    """What one model says of one parameter."""

    value: str | float
    interval: tuple[float, float] | None  # of a number
    is_number: bool


class _Prediction(NamedTuple):
    """What one model says of one series."""

    model_id: str
    novel: bool
    answers: dict[str, _Answer | None]


@dataclass(frozen=True, slots=True)
class _Number:
    """The number in a stored `ParameterPrediction`."""

    value: float | None = None
    interval: tuple[float, float] | None = None


def save_shadow_prediction(session: Session, job: Job, prediction: SeriesPrediction, now: datetime) -> bool:
    """Keep what a model in shadow says of the revision that a job judged; False where that is known already."""
    score = prediction.novelty_score
    return insert_if_new(
        session,
        PredictionRow,
        (PredictionRow.series_id, PredictionRow.revision, PredictionRow.model_id),
        series_id=job.series_id,
        revision=job.revision,
        model_id=prediction.model_id,
        novel=prediction.novel,
        novelty_score=score if math.isfinite(score) else None,
        n_slices=prediction.n_slices,
        payload=to_payload(prediction),
        predicted_at=now,
    )


def agreement(session: Session, model_id: str) -> Agreement:
    """How far a model agrees with the champion, over the series of its shadow, or of its last one.

    Raises
    ------
    NoSuchModel
    """
    model = models.model(session, model_id)
    tallies: defaultdict[str, _Tally] = defaultdict(_Tally)
    champions: dict[str, None] = {}
    n_series = n_same_novelty = n_novel_champion = n_novel_candidate = 0
    for champion, candidate, stated in _pairs(session, model):
        champions[champion.model_id] = None
        n_series += 1
        n_same_novelty += champion.novel == candidate.novel
        n_novel_champion += champion.novel
        n_novel_candidate += candidate.novel
        for parameter in PARAMETERS:
            left, right = champion.answers.get(parameter.keyword), candidate.answers.get(parameter.keyword)
            if left is not None and right is not None:
                _count(tallies[parameter.keyword], parameter, left, right, stated.get(parameter.keyword))
    return Agreement(
        model_id,
        tuple(champions),
        model.shadow_series,
        n_series,
        n_same_novelty,
        n_novel_champion,
        n_novel_candidate,
        tuple(
            _parameter_agreement(parameter.keyword, tallies[parameter.keyword])
            for parameter in PARAMETERS
            if parameter.keyword in tallies
        ),
    )


def agreement_gates(found: Agreement, config: AgreementConfig, keywords: Collection[str]) -> tuple[Gate, ...]:
    """What a shadow had to show, for a candidate to be promoted by itself.

    Parameters
    ----------
    keywords
        The parameters that matter at this site.
    """
    gates = [_abstention_gate(found, config)]
    enough = [one for one in found.parameters if one.keyword in keywords and one.n >= config.min_series]
    gates.append(
        Gate(
            "seen", bool(enough), f"both models spoke about {len(enough)} of {len(keywords)} parameters that matter "
            f"in {config.min_series} series or more", len(enough), 1,
        )
    )  # fmt: skip
    for one in enough:
        same = one.share_same or 0.0
        loss = (one.champion_share or 0.0) - (one.candidate_share or 0.0)
        heard = one.n_stated >= config.min_series
        better = heard and loss < 0
        passed = (same >= config.min_same or better) and not (heard and loss > config.max_header_loss)
        said = f"{one.keyword}: the same answer in {same:.3f} of {one.n} series, {config.min_same:g} asked"
        if heard:
            said += f"; right by the header in {one.candidate_share:.3f}, the champion in {one.champion_share:.3f}"
        gates.append(Gate(one.keyword, passed, said, same, config.min_same))
    return tuple(gates)


def finish_shadow(
    session: Session,
    model_id: str,
    who: str,
    now: datetime,
    config: AgreementConfig,
    keywords: Collection[str],
    *,
    by_gate: bool,
) -> RegisteredModel | None:
    """End a shadow that has seen its series, and promote the model where that is wanted and its agreement will do.

    One transaction, so that a kill leaves the champion. None where the shadow goes on, or is over already.
    """
    model = models.model(session, model_id)
    if model.state is not ModelState.SHADOW or model.shadow_begun_at is None:
        return None
    n = models.n_shadow_predictions(session, model_id, model.shadow_begun_at)
    if n < (model.shadow_series or 0):
        return None
    found = agreement(session, model_id)
    gates = agreement_gates(found, config, keywords)
    passed = all(gate.passed for gate in gates)
    details = {"agreement": asdict(found), "gates": [asdict(gate) for gate in gates]}
    ended = models.end_shadow(session, model_id, who, f"its {n} series are over", now, details)
    if not by_gate:
        return ended
    kind = ModelEventKind.GATES_PASSED if passed else ModelEventKind.GATES_FAILED
    said = [gate.sentence for gate in gates if passed or not gate.passed]
    models.note_event(session, model_id, kind, who, "; ".join(said), now)
    if not passed:
        return ended
    return models.promote(session, model_id, who, "by gate: it agrees with the champion and the headers", now)


def _abstention_gate(found: Agreement, config: AgreementConfig) -> Gate:
    more = (found.n_novel_candidate - found.n_novel_champion) / found.n_series if found.n_series else 1.0
    return Gate(
        "abstention",
        more <= config.max_more_abstained,
        f"it calls {found.n_novel_candidate} of {found.n_series} series novel, the champion {found.n_novel_champion}; "
        f"{config.max_more_abstained:g} of the series more are allowed",
        more,
        config.max_more_abstained,
    )


def _pairs(
    session: Session, model: RegisteredModel
) -> Iterator[tuple[_Prediction, _Prediction, dict[str, str | float | None]]]:
    """The champion's prediction, the candidate's, and what the header states, of each series of a shadow."""
    if model.shadow_begun_at is None:
        return
    counted, beside = aliased(PredictionRow), aliased(PredictionRow)
    query = (
        select(counted.payload, beside.payload, JudgementRow.header)
        .select_from(beside)
        .join(JudgementRow, (JudgementRow.series_id == beside.series_id) & (JudgementRow.revision == beside.revision))
        .join(counted, counted.id == JudgementRow.prediction_id)
        .where(
            beside.model_id == model.model_id,
            beside.predicted_at >= model.shadow_begun_at,
            counted.model_id != model.model_id,
        )
        .order_by(beside.id)
        .limit(MOST_SERIES)
    )
    if model.shadow_ended_at is not None:
        query = query.where(beside.predicted_at <= model.shadow_ended_at)
    for champion, candidate, header in session.execute(query):
        stated = {one["keyword"]: one["canonical"] for one in header["values"]}
        yield _prediction(champion), _prediction(candidate), stated


def _prediction(payload: dict[str, Any]) -> _Prediction:
    """Of a stored `SeriesPrediction` what is compared: to make whole records of all would take ten times as long."""
    answers = {one["keyword"]: _answer(one) for one in payload["parameters"]}
    return _Prediction(payload["model_id"], payload["novel"], answers)


def _answer(stored: dict[str, Any]) -> _Answer | None:
    if stored["kind"] == ParameterKind.CONTINUOUS:
        number = from_payload(_Number, stored)
        return None if number.value is None else _Answer(number.value, number.interval, True)
    return _Answer(stored["probabilities"][0][0], None, False) if stored["probabilities"] else None


def _count(
    tally: _Tally, parameter: AcquisitionParameter, champion: _Answer, candidate: _Answer, stated: str | float | None
) -> None:
    tally.n += 1
    if champion.is_number and candidate.is_number:
        tally.differences.append(abs(float(champion.value) - float(candidate.value)))
    tally.same += _fits(parameter, champion, candidate.value)
    if stated is not None:
        tally.stated += 1
        tally.champion_right += _fits(parameter, champion, stated)
        tally.candidate_right += _fits(parameter, candidate, stated)


def _fits(parameter: AcquisitionParameter, answer: _Answer, value: str | float) -> bool:
    """Whether a value is what a model answers: the first class, or inside the interval of the number."""
    try:
        if answer.interval is not None:
            return answer.interval[0] <= float(value) <= answer.interval[1]
        return parameter.same(value, answer.value)
    except ValueError:  # text where a number is asked for: of a package with other classes
        return False


def _parameter_agreement(keyword: str, tally: _Tally) -> ParameterAgreement:
    differences: Sequence[float] = tally.differences
    return ParameterAgreement(
        keyword,
        tally.n,
        tally.same,
        sum(differences) / len(differences) if differences else None,
        tally.stated,
        tally.champion_right,
        tally.candidate_right,
    )
