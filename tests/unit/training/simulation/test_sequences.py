"""The signal equations against what is known in closed form."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from training.simulation import sequences


def test_signal_peaks_at_the_ernst_angle() -> None:
    angles = np.linspace(0.5, 60.0, 2000)
    signal = np.asarray(sequences.spoiled_gradient_echo(angles, 5.0, 400.0))
    ernst = math.degrees(math.acos(math.exp(-5.0 / 400.0)))
    assert angles[signal.argmax()] == pytest.approx(ernst, abs=0.05)


def test_signal_decays_with_t2star() -> None:
    early = sequences.spoiled_gradient_echo(10.0, 5.0, 400.0, echo_time_ms=0.0, t2star_ms=20.0)
    late = sequences.spoiled_gradient_echo(10.0, 5.0, 400.0, echo_time_ms=20.0, t2star_ms=20.0)
    assert late == pytest.approx(early / math.e)


def test_fat_and_water_are_opposed_at_2_3_ms_and_in_phase_at_4_6_ms_at_1_5_t() -> None:
    offset_hz = sequences.fat_offset_hz(1.5)
    assert math.cos(2.0 * math.pi * offset_hz * 2.3e-3) == pytest.approx(-1.0, abs=0.01)
    assert math.cos(2.0 * math.pi * offset_hz * 4.6e-3) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("nominal", "true"), [(1.494, 1.494), (1.5, 1.5), (2.8936, 2.8936), (3.0, 2.8936)])
def test_a_nominal_three_tesla_magnet_runs_at_2_89_t(nominal: float, true: float) -> None:
    assert sequences.true_field(nominal) == true


def test_constants_are_interpolated_through_both_fields() -> None:
    pair = sequences.TISSUES["fibroglandular"].t1_ms
    assert sequences.at_field(pair, 1.5) == pytest.approx(pair[0])
    assert sequences.at_field(pair, 3.0) == pytest.approx(pair[1])


def test_contrast_agent_shortens_t1_and_brightens_the_lesion() -> None:
    t1 = sequences.with_contrast(1350.0, "GADAVIST", 0.5, 1.5)
    assert 1.0 / t1 == pytest.approx(1.0 / 1350.0 + 4.78 * 0.5e-3)
    amplitudes = functools.partial(
        sequences.tissue_amplitudes,
        field_t=1.5,
        flip_angle_deg=12.0,
        repetition_time_ms=5.0,
        echo_time_ms=2.0,
    )
    before = amplitudes()
    after = amplitudes(agent="GADAVIST", concentration_mmol_l={"lesion": 0.5})
    assert after["lesion"][0] > 1.5 * before["lesion"][0]
    assert after["muscle"] == before["muscle"]


def test_b1_response_follows_the_signal_equation() -> None:
    c0, c1, c2 = sequences.b1_response(10.0, 5.0, 1266.0)
    nominal = sequences.spoiled_gradient_echo(10.0, 5.0, 1266.0)
    for b1 in (0.7, 0.9, 1.0, 1.2):
        exact = sequences.spoiled_gradient_echo(10.0 * b1, 5.0, 1266.0) / nominal
        assert c0 + c1 * (b1 - 1.0) + c2 * (b1 - 1.0) ** 2 == pytest.approx(exact, abs=0.02)
