"""What a spoiled gradient echo makes of each tissue: signal equation, relaxation, relaxivity, chemical shift.

Called by `training.simulation.series`, which hands the amplitudes to the phantom. Pure functions and
constants, each with its source; "own choice" marks what no paper gave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GYROMAGNETIC_RATIO_HZ_PER_T = 42.577e6
"""Proton, CODATA 2018: 42.577 478 518 MHz/T."""

FAT_SHIFT_PPM = -3.4
"""Main (methylene) peak of fat against water; Hamilton et al. 2011, NMR Biomed 24:784, doi
10.1002/nbm.1622."""

TRUE_FIELD_T = {1.494: 1.494, 1.5: 1.5, 2.8936: 2.8936, 3.0: 2.8936}
"""True field behind a nominal one, T: most "3 T" magnets run at 2.89 T (123.2 MHz); labels, not physics."""


@dataclass(frozen=True)
class Tissue:
    """Relaxation and composition of one tissue.

    Attributes
    ----------
    t1_ms
        Longitudinal relaxation time at (1.5 T, 3 T), ms.
    t2star_ms
        Effective transverse relaxation time at (1.5 T, 3 T), ms.
    water, fat
        Proton densities of the two compartments relative to pure water.
    """

    t1_ms: tuple[float, float]
    t2star_ms: tuple[float, float]
    water: float
    fat: float


# Read at the source (abstracts): Edden 2010, Ryu 2014, Stock 1999, Yu 2011, Szomolanyi 2019. Their tables not being
# free, second hand, as others quote them: of Stanisz 2005 muscle and liver at 3 T, white and grey matter at both
# fields; of Rakow-Penner 2006 fibroglandular tissue at 1.5 T. Neither read nor found quoted: the rest of these two
# and Rohrer 2005. In vivo blood and heart were found nearer to each other's fields (Sharma et al. 2006, J Magn Reson
# Imaging 23:323, doi 10.1002/jmri.20504: heart 1070 and 1220 ms, blood 1580 and 1660 ms).
TISSUES: Mapping[str, Tissue] = {
    # T1: Rakow-Penner et al. 2006, J Magn Reson Imaging 23:87, doi 10.1002/jmri.20469 (1266 and 1445 ms) and
    # Edden et al. 2010, 32:982, doi 10.1002/jmri.22306 (1680 ms at 3 T); 3 T is the mean of both. T2* at 3
    # T: Ryu et al. 2014, J Korean Soc Magn Reson Med 18:1 (22.4 ms); at 1.5 T own choice, susceptibility
    # term halved.
    "fibroglandular": Tissue((1266.0, 1563.0), (33.0, 22.4), 0.85, 0.02),
    # T1: Rakow-Penner 2006 (296, 367 ms), Edden 2010 (423 ms); T2* at 3 T: Ryu 2014 (36.4 ms).
    "adipose": Tissue((296.0, 395.0), (46.0, 36.4), 0.06, 0.90),
    # Stanisz et al. 2005, Magn Reson Med 54:507, doi 10.1002/mrm.20605: muscle 1008/1412 ms; T2* own choice.
    "muscle": Tissue((1008.0, 1412.0), (30.0, 22.0), 0.80, 0.03),
    # Stanisz 2005: heart 1030/1471 ms; T2* own choice.
    "heart": Tissue((1030.0, 1471.0), (30.0, 20.0), 0.80, 0.02),
    # Stanisz 2005: blood 1441/1932 ms. Inflow of unsaturated spins shortens the apparent T1: own choice,
    # half.
    "blood": Tissue((720.0, 960.0), (60.0, 40.0), 0.90, 0.0),
    # Stanisz 2005: liver 576/812 ms; T2* own choice.
    "liver": Tissue((576.0, 812.0), (28.0, 18.0), 0.72, 0.05),
    # Lung: hardly any protons. T2* 0.9 to 1.1 ms at 1.5 T in breath-hold (Stock et al. 1999, Magn Reson
    # Imaging, doi 10.1016/s0730-725x(99)00047-8), 2.11 and 0.74 ms breathing at 1.5 and 3 T (Yu et al. 2011,
    # Magn Reson Med, doi 10.1002/mrm.22829); between both. T1 and density own choice.
    "lung": Tissue((1200.0, 1400.0), (1.6, 0.7), 0.22, 0.0),
    # Own choice, between muscle and fibroglandular tissue.
    "skin": Tissue((900.0, 1100.0), (16.0, 11.0), 0.65, 0.08),
    # Own choice: red and fatty marrow with trabecular dephasing.
    "bone": Tissue((500.0, 620.0), (9.0, 6.0), 0.22, 0.35),
    # Own choice: longer than fibroglandular tissue, as tumours are; precontrast contrast is small.
    "lesion": Tissue((1350.0, 1700.0), (36.0, 26.0), 0.88, 0.0),
}

FAT_T1_MS = TISSUES["adipose"].t1_ms
"""T1 of every fat compartment, ms at (1.5 T, 3 T)."""

RELAXIVITY_R1: Mapping[str, tuple[float, float]] = {
    # L/(mmol s) in plasma at 37 C, (1.5 T, 3 T): Rohrer et al. 2005, Invest Radiol 40:715,
    # doi 10.1097/01.rli.0000184756.66360.d3.
    "MAGNEVIST": (4.1, 3.7),
    "MMAGNEVIST": (4.1, 3.7),
    "MULTIHANCE": (6.3, 5.5),
    # Szomolanyi et al. 2019, Invest Radiol 54:559, doi 10.1097/RLI.0000000000000577 (human plasma).
    "GADAVIST": (4.78, 4.97),
}


def true_field(field_strength_t: float) -> float:
    """Field behind a nominal Magnetic Field Strength (0018,0087), T."""
    return TRUE_FIELD_T.get(field_strength_t, field_strength_t)


def at_field(pair: tuple[float, float], field_t: float) -> float:
    """Interpolate a constant given at 1.5 T and 3 T to another field, as a power law of the field.

    Bottomley et al. 1984, Med Phys 11:425, doi 10.1118/1.595535, describe T1 so.
    """
    exponent = math.log(pair[1] / pair[0]) / math.log(2.0)
    return float(pair[0] * (field_t / 1.5) ** exponent)


def spoiled_gradient_echo(
    flip_angle_deg: float | NDArray[np.floating],
    repetition_time_ms: float,
    t1_ms: float,
    echo_time_ms: float = 0.0,
    t2star_ms: float = math.inf,
) -> float | NDArray[np.floating]:
    """Steady-state signal of an ideally spoiled gradient echo, per unit of proton density.

    Ernst & Anderson 1966, Rev Sci Instrum 37:93, doi 10.1063/1.1719961:
    ``sin(a) (1 - E1) / (1 - E1 cos(a)) exp(-TE / T2*)`` with ``E1 = exp(-TR / T1)``.
    """
    angle = np.deg2rad(flip_angle_deg)
    e1 = math.exp(-repetition_time_ms / t1_ms)
    decay = math.exp(-echo_time_ms / t2star_ms)
    signal: float | NDArray[np.floating] = np.sin(angle) * (1.0 - e1) / (1.0 - e1 * np.cos(angle)) * decay
    return signal


def with_contrast(t1_ms: float, agent: str, concentration_mmol_l: float, field_t: float) -> float:
    """T1 in the presence of an agent, ms: ``1/T1' = 1/T1 + r1 c``; unknown agents change nothing."""
    pair = RELAXIVITY_R1.get(agent)
    if pair is None or concentration_mmol_l <= 0.0:
        return t1_ms
    rate_per_ms = at_field(pair, field_t) * concentration_mmol_l * 1e-3
    return 1.0 / (1.0 / t1_ms + rate_per_ms)


def tissue_amplitudes(
    *,
    field_t: float,
    flip_angle_deg: float,
    repetition_time_ms: float,
    echo_time_ms: float,
    t1_scale: Mapping[str, float] | None = None,
    agent: str = "",
    concentration_mmol_l: Mapping[str, float] | None = None,
) -> dict[str, tuple[float, float]]:
    """Water and fat amplitude of every tissue at the nominal flip angle.

    Parameters
    ----------
    field_t
        True field, T.
    t1_scale
        Per-tissue factor on T1: how this patient differs from the mean.
    agent, concentration_mmol_l
        Contrast agent and its concentration per tissue; the training series are pre-contrast, so none.

    Returns
    -------
    dict
        Tissue name to (water, fat) amplitude, arbitrary units, before fat saturation.
    """
    amplitudes: dict[str, tuple[float, float]] = {}
    for name, tissue in TISSUES.items():
        factor = (t1_scale or {}).get(name, 1.0)
        concentration = (concentration_mmol_l or {}).get(name, 0.0)
        t1 = with_contrast(at_field(tissue.t1_ms, field_t) * factor, agent, concentration, field_t)
        t2star = at_field(tissue.t2star_ms, field_t)
        times = (repetition_time_ms, t1, echo_time_ms, t2star)
        fat_times = (repetition_time_ms, at_field(FAT_T1_MS, field_t), echo_time_ms, t2star)
        amplitudes[name] = (
            tissue.water * float(spoiled_gradient_echo(flip_angle_deg, *times)),
            tissue.fat * float(spoiled_gradient_echo(flip_angle_deg, *fat_times)),
        )
    return amplitudes


def b1_response(flip_angle_deg: float, repetition_time_ms: float, t1_ms: float) -> tuple[float, float, float]:
    """Quadratic ``c0 + c1 d + c2 d^2`` in ``d = B1 - 1`` of the signal relative to the nominal flip angle.

    One response for water and one for fat is enough: at these short TR all water tissues lie far beyond their
    Ernst angle. Evaluated per pixel it is ten times cheaper than the signal equation.
    """
    b1 = np.linspace(0.6, 1.3, 15)
    relative = spoiled_gradient_echo(flip_angle_deg * b1, repetition_time_ms, t1_ms) / spoiled_gradient_echo(
        flip_angle_deg, repetition_time_ms, t1_ms
    )
    c2, c1, c0 = np.polyfit(b1 - 1.0, relative, 2)
    return float(c0), float(c1), float(c2)


def fat_offset_hz(field_t: float) -> float:
    """Frequency of fat against water, Hz (negative: fat precesses more slowly)."""
    return FAT_SHIFT_PPM * 1e-6 * GYROMAGNETIC_RATIO_HZ_PER_T * field_t
