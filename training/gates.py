"""The gates between a candidate and the model at work: pure functions of what both made of the same held-out series.

Uncertainty is counted over patients, never over series: series of one patient are not independent. Called by
`training.retraining`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv

from iap_node.config.retraining import GatesConfig
from iap_node.dicom.parameters import BY_KEYWORD

Array = NDArray[np.float64]

CONFIDENCE = 0.95  # of intervals
WORSE_CONFIDENCE = 0.9  # of the interval by which a parameter that matters is worse: a smaller loss is seen there
RESAMPLES = 2000
ALPHA = 0.05  # of the conformal sets whose coverage is looked at
_BINS = 10


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What one model made of held-out series, in one order for all models.

    Attributes
    ----------
    patients
        (n_series,) whose each series is: a keyed hash.
    scores
        By keyword (n_series,): of classes 1 where the first answer is right within tolerance, else 0; of numbers 1
        minus the error in units of what the best constant answer would miss by. NaN where no header says.
    confidences
        By keyword of classes (n_series,): probability of the first answer, same values within tolerance added.
    covered
        By keyword (n_series,): 1 where the set or interval at `ALPHA` holds the value within tolerance, else 0.
    abstained
        (n_series,) whether the model calls the series novel. Scores count nevertheless.
    """

    model_id: str
    patients: tuple[str, ...]
    scores: Mapping[str, Array]
    confidences: Mapping[str, Array]
    covered: Mapping[str, Array]
    abstained: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate: `says` is one line for people, with the figures that it decided by; `measured` against `limit`."""

    name: str
    passed: bool
    says: str
    measured: float
    limit: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate less champion, mean over patients, with its interval."""

    mean: float
    low: float
    high: float
    n_patients: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def judge_gates(champion: HeldOut, candidate: HeldOut, config: GatesConfig, seed: int = 0) -> tuple[GateResult, ...]:
    """Every gate, passed or not; a candidate is refused when one is not.

    Raises
    ------
    ValueError
        The two did not judge the same series.
    """
    if champion.patients != candidate.patients:
        raise ValueError("champion and candidate must be held against the same series")
    rng = np.random.default_rng([seed, len(champion.patients)])
    return (
        _enough(candidate, config),
        _overall(champion, candidate, config, rng),
        *_nowhere_worse(champion, candidate, config, rng),
        *_calibrated(candidate, config, rng),
        *_covering(candidate, config),
        _answers(candidate, config),
    )


def difference(
    champion: HeldOut,
    candidate: HeldOut,
    keywords: Sequence[str],
    rng: np.random.Generator,
    confidence: float = CONFIDENCE,
) -> Difference:
    """Paired over patients, percentile bootstrap (Efron and Tibshirani 1993, chapter 13); a model without a parameter
    has no right answer for it."""
    n_series = len(candidate.patients)
    silent = np.zeros(n_series)
    differences = []
    for keyword in keywords:
        own = [model.scores[keyword] for model in (candidate, champion) if keyword in model.scores]
        if not own:
            continue
        known = np.isfinite(own[0])
        gain = candidate.scores.get(keyword, silent) - champion.scores.get(keyword, silent)
        differences.append(np.where(known, gain, np.nan))
    if not differences:
        return Difference(0.0, 0.0, 0.0, 0)
    per_patient = _by_patient(np.stack(differences), candidate.patients)
    if not len(per_patient):
        return Difference(0.0, 0.0, 0.0, 0)
    low, high = _interval(per_patient, rng, confidence)
    return Difference(float(per_patient.mean()), low, high, len(per_patient))


def calibration_error(confidences: Array, right: Array) -> float:
    """Expected calibration error over bins of equal numbers (Guo et al. 2017, arXiv 1706.04599); equal confidences
    share a bin."""
    edges = np.unique(np.quantile(confidences, np.linspace(0, 1, _BINS + 1)[1:-1], method="higher"))
    bins = np.searchsorted(edges, confidences, side="right")
    gaps = np.bincount(bins, confidences - right)
    return float(np.abs(gaps).sum() / len(confidences))


def calibration_error_beyond_chance(
    confidences: Array, right: Array, rng: np.random.Generator, draws: int = 200
) -> float:
    """The error less what a perfectly calibrated model would show on as many series, at least 0.

    Few series make bins uneven by chance; consistency resampling says by how much (Broecker and Smith 2007, doi
    10.1175/WAF993.1).
    """
    perfect = [
        calibration_error(confidences, (rng.random(len(confidences)) < confidences).astype(np.float64))
        for _ in range(draws)
    ]
    return max(0.0, calibration_error(confidences, right) - float(np.mean(perfect)))


def share_interval(share: float, n: int) -> tuple[float, float]:
    """Clopper-Pearson interval of a share of n (Clopper and Pearson 1934, doi 10.1093/biomet/26.4.404)."""
    k, tail = share * n, (1 - CONFIDENCE) / 2
    low = float(betaincinv(k, n - k + 1, tail)) if k > 0 else 0.0
    high = float(betaincinv(k + 1, n - k, 1 - tail)) if k < n else 1.0
    return low, high


def _by_patient(rows: Array, patients: Sequence[str]) -> Array:
    """(n_patients,) means over what is known of each patient's series; patients of whom nothing is known are left
    out."""
    names, index = np.unique(np.asarray(patients), return_inverse=True)
    known = np.isfinite(rows)
    # first over parameters within a series, then over series
    counts = known.sum(axis=0)
    per_series = np.where(counts > 0, np.where(known, rows, 0.0).sum(axis=0) / np.maximum(counts, 1), np.nan)
    usable = np.isfinite(per_series)
    totals = np.bincount(index[usable], per_series[usable], len(names))
    numbers = np.bincount(index[usable], minlength=len(names))
    means: Array = totals[numbers > 0] / numbers[numbers > 0]
    return means


def _interval(values: Array, rng: np.random.Generator, confidence: float) -> tuple[float, float]:
    chosen = rng.integers(0, len(values), (RESAMPLES, len(values)))
    means = values[chosen].mean(axis=1)
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _enough(candidate: HeldOut, config: GatesConfig) -> GateResult:
    n = len(set(candidate.patients))
    says = f"{n} held-out patients, {config.min_patients} needed"
    return GateResult("enough held-out patients", n >= config.min_patients, says, n, config.min_patients)


def _overall(champion: HeldOut, candidate: HeldOut, config: GatesConfig, rng: np.random.Generator) -> GateResult:
    found = difference(champion, candidate, config.parameters, rng)
    figures = {"mean": found.mean, "low": found.low, "high": found.high, "n_patients": found.n_patients}
    if config.overall == "better":
        passed, limit, wanted = found.low > 0, 0.0, "must lie above zero"
    else:
        passed, limit = found.low >= -config.allowed_loss, -config.allowed_loss
        wanted = f"must not reach below {limit:+.3f}"
    says = f"right answers on what matters, candidate less model at work: {found}; the interval {wanted}"
    return GateResult("better on what matters", passed and found.n_patients > 0, says, found.low, limit, figures)


def _nowhere_worse(
    champion: HeldOut, candidate: HeldOut, config: GatesConfig, rng: np.random.Generator
) -> list[GateResult]:
    """A parameter fails where it loses more than `allowed_loss`, and that is beyond chance.

    Both are asked: without the second, one patient of thirty would refuse every candidate, on one parameter or another.
    """
    results = []
    for keyword in BY_KEYWORD:
        if keyword not in champion.scores:
            continue
        confidence = WORSE_CONFIDENCE if keyword in config.parameters else CONFIDENCE
        found = difference(champion, candidate, [keyword], rng, confidence)
        if not found.n_patients:
            continue
        passed = found.mean >= -config.allowed_loss or found.high >= 0
        gone = "" if keyword in candidate.scores else "; the candidate does not predict it"
        says = (
            f"{BY_KEYWORD[keyword].title}: {found} ({confidence:.0%} interval), a loss of {config.allowed_loss:g} is "
            f"allowed, and what chance explains{gone}"
        )
        figures = {"low": found.low, "high": found.high, "n_patients": found.n_patients}
        results.append(GateResult(f"not worse: {keyword}", passed, says, found.mean, -config.allowed_loss, figures))
    return results


def _calibrated(candidate: HeldOut, config: GatesConfig, rng: np.random.Generator) -> list[GateResult]:
    results = []
    for keyword in config.parameters:
        if keyword not in candidate.confidences:
            continue
        known = np.isfinite(candidate.scores[keyword])
        if not known.any():
            continue
        confidences, right = candidate.confidences[keyword][known], candidate.scores[keyword][known]
        error = calibration_error_beyond_chance(confidences, right, rng)
        says = f"{BY_KEYWORD[keyword].title}: calibration error beyond chance {error:.3f}, at most {config.max_ece:g}"
        results.append(GateResult(f"calibrated: {keyword}", error <= config.max_ece, says, error, config.max_ece))
    return results


def _covering(candidate: HeldOut, config: GatesConfig) -> list[GateResult]:
    """Coverage fails where its interval lies outside of the window: what chance explains is no fault."""
    results = []
    low, high = config.coverage
    for keyword in config.parameters:
        per_patient = _by_patient(candidate.covered[keyword][None], candidate.patients) if (
            keyword in candidate.covered
        ) else np.zeros(0)
        if not len(per_patient):
            continue
        coverage = float(per_patient.mean())
        least, most = share_interval(coverage, len(per_patient))
        passed = most >= low and least <= high
        says = (
            f"{BY_KEYWORD[keyword].title}: sets at alpha {ALPHA:g} cover {coverage:.3f} [{least:.3f}, {most:.3f}], "
            f"{low:g} to {high:g} is right"
        )
        figures = {"low": least, "high": most}
        limit = low if coverage < low else high
        results.append(GateResult(f"coverage: {keyword}", passed, says, coverage, limit, figures))
    return results


def _answers(candidate: HeldOut, config: GatesConfig) -> GateResult:
    share = float(candidate.abstained.mean()) if len(candidate.abstained) else 1.0
    says = f"calls {share:.1%} of the held-out series novel, at most {config.max_abstained:.1%}"
    return GateResult("answers", share <= config.max_abstained, says, share, config.max_abstained)
