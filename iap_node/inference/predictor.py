"""A model package at work: slices in, one answer per series out, or the statement that the series is novel.

Called by the worker (one predictor per model and process), the CLI and evaluation. What computes the network is an
engine (`iap_node.inference.engines`); here are preparation before it and the meaning of its outputs after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from iap_node.config import InferenceConfig
from iap_node.errors import UnreadablePixels
from iap_node.inference import calibration, joint, novelty, pooling
from iap_node.inference.calibration import Calibration, HeadCalibration
from iap_node.inference.engines import DeviceName, EngineName, Precision, open_engine
from iap_node.inference.heads import Head
from iap_node.inference.package import Manifest, ModelPackage
from iap_node.inference.preprocess import prepare_series, standardise
from iap_node.records import ParameterKind, ParameterPrediction, SeriesHeader, SeriesPrediction


class Predictor:
    """Answers for series with one model.

    Parameters
    ----------
    package
        From `iap_node.inference.package.load_package`.
    device
        `auto` takes CUDA when present, else the CPU.
    batch_size
        Slices per forward pass.
    threads
        CPU threads of the engine; None leaves its own choice.
    engine, precision
        As in `iap_node.inference.engines.open_engine`. The defaults are what packages are calibrated with, and every
        other combination is held against; the node takes what `inference` in config.yaml says.

    Raises
    ------
    ModelPackageError
        The weights do not fit the network that model.json describes.
    ConfigError
        The engine or the device that is asked for is not there.
    """

    def __init__(
        self,
        package: ModelPackage,
        device: DeviceName = "auto",
        batch_size: int = 16,
        threads: int | None = None,
        engine: EngineName = "torch",
        precision: Precision = "float32",
    ) -> None:
        self._package = package
        self._batch_size = batch_size
        self._engine = open_engine(package, engine, device, precision, threads)

    @property
    def engine(self) -> str:
        """What computes, where and how exactly."""
        return self._engine.description

    @property
    def model_id(self) -> str:
        """Identity of the model: name, version, short hash."""
        return self._package.model_id

    @property
    def training_data(self) -> str:
        """What the model learned from, as every surface shows it."""
        return self._package.training_data

    def predict(
        self, slices: Sequence[NDArray[np.generic]], alpha: float, header: SeriesHeader | None = None
    ) -> SeriesPrediction:
        """The answer for one series.

        Parameters
        ----------
        slices
            (rows, columns) each, any numeric type; evenly spaced through the series.
        alpha
            Miscoverage of the conformal sets and intervals.
        header
            What the series' headers state: given, the answer says how well it fits as a whole. It changes nothing
            of what the pixels say.

        Raises
        ------
        UnreadablePixels
            There are no slices.
        """
        if not slices:
            raise UnreadablePixels("the series has no slice with pixels; nothing to predict from")
        prepared = prepare_series(slices, self._package.manifest.preprocessing)
        outputs, features = self.forward(prepared)
        return judge(self._package, prepared, outputs, features, alpha, header)

    def forward(self, prepared: NDArray[np.generic]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Network outputs (n, n_outputs) and pooled features (n, n_features) of prepared slices."""
        outputs, features = [], []
        for start in range(0, len(prepared), self._batch_size):
            batch = standardise(prepared[start : start + self._batch_size], self._package.manifest.preprocessing)
            output, feature = self._engine.forward(batch)
            outputs.append(output)
            features.append(feature)
        return np.concatenate(outputs), np.concatenate(features)


def predictor_of(package: ModelPackage, config: InferenceConfig) -> Predictor:
    """A package at work as `inference` in config.yaml says.

    Raises
    ------
    ModelPackageError
        The weights do not fit the network that model.json describes.
    ConfigError
        The engine or the device that is asked for is not there.
    """
    return Predictor(
        package, config.device, config.batch_size, config.threads, engine=config.engine, precision=config.precision
    )


def judge(
    package: ModelPackage,
    prepared: NDArray[np.floating],
    outputs: NDArray[np.floating],
    features: NDArray[np.floating],
    alpha: float,
    header: SeriesHeader | None = None,
) -> SeriesPrediction:
    """Pool, calibrate and check for novelty: from the network's slice outputs to the series' answer."""
    manifest, n_slices = package.manifest, len(outputs)
    finite = bool(np.isfinite(outputs).all())
    if not package.calibrated:
        return SeriesPrediction(
            model_id=package.model_id,
            training_data=package.training_data,
            novel=False,
            novelty_score=math.nan,  # nobody knows: nothing says what is unlike the training data
            novelty_threshold=novelty.SCORE_THRESHOLD,
            n_slices=n_slices,
            parameters=parameter_predictions(manifest, outputs, alpha) if finite else (),
            calibrated=False,
        )
    descriptors = {
        "feature": features.astype(np.float64).mean(axis=0),
        "input": novelty.describe_input(prepared).mean(axis=0),
    }
    score = novelty.score(package.novelty, descriptors, n_slices)
    # Not finite anywhere counts as novel: what the network cannot digest is unlike its training data.
    novel = not (score <= novelty.SCORE_THRESHOLD and finite)
    answers = () if novel else parameter_predictions(manifest, outputs, alpha)
    fit = None
    if answers and header is not None and package.header is not None:
        fit = joint.header_fit(package.header, manifest.parameters, answers, header, n_slices)
    return SeriesPrediction(
        model_id=package.model_id,
        training_data=package.training_data,
        novel=novel,
        novelty_score=score,
        novelty_threshold=novelty.SCORE_THRESHOLD,
        n_slices=n_slices,
        parameters=answers,
        header_fit=fit,
    )


def parameter_predictions(
    manifest: Manifest, outputs: NDArray[np.floating], alpha: float
) -> tuple[ParameterPrediction, ...]:
    """The answers of all heads for one series, whether or not it is novel.

    Without calibration: the network's own probabilities and values, empty sets, no intervals.
    """
    fitted = calibration.select(manifest.calibration or (_uncalibrated(manifest),), len(outputs))
    pooled = pooling.pool(outputs, manifest.parameters)
    return tuple(
        _categorical(head, item, fitted, answer, alpha)
        if head.kind is ParameterKind.CATEGORICAL
        else _continuous(head, item, fitted, answer, alpha)
        for head, item, answer in zip(manifest.parameters, fitted.heads, pooled, strict=True)
    )


def _uncalibrated(manifest: Manifest) -> Calibration:
    heads = tuple(HeadCalibration(head.keyword, 1.0, ()) for head in manifest.parameters)
    return Calibration(1, 0, (), heads)


def _categorical(
    head: Head, item: HeadCalibration, fitted: Calibration, answer: NDArray[np.float64], alpha: float
) -> ParameterPrediction:
    shares = pooling.probabilities(answer, item.temperature)
    order = np.argsort(-shares, kind="stable")
    return ParameterPrediction(
        keyword=head.keyword,
        kind=head.kind,
        probabilities=tuple((head.classes[index], float(shares[index])) for index in order),
        prediction_set=()
        if not fitted.alphas
        else calibration.prediction_set(
            shares, head.classes, calibration.quantile(fitted.alphas, item.quantiles, alpha)
        ),
        alpha=alpha,
        by_association=head.by_association,
    )


def _continuous(
    head: Head, item: HeadCalibration, fitted: Calibration, answer: NDArray[np.float64], alpha: float
) -> ParameterPrediction:
    target = float(answer[0])
    intervals = tuple(
        (level, head.decode(target - residual), head.decode(target + residual))
        for level, residual in sorted(zip(fitted.alphas, item.quantiles, strict=True), reverse=True)
        if residual is not None
    )
    residual = calibration.quantile(fitted.alphas, item.quantiles, alpha)
    return ParameterPrediction(
        keyword=head.keyword,
        kind=head.kind,
        value=head.decode(target),
        interval=None if residual is None else (head.decode(target - residual), head.decode(target + residual)),
        intervals=intervals,
        alpha=alpha,
        by_association=head.by_association,
    )
