"""Who lies in the scanner: a prone chest with both breasts, drawn slice by slice.

Patient coordinates in mm: x towards the patient's left, y towards posterior, z towards the head; the origin
lies on the breastbone in mid-breast. Called by `training.simulation.series`. All sizes are own choices
within adult anatomy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.simulation.texture import Texture, make_texture

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Grid:
    """Square grid over the field of view.

    Attributes
    ----------
    size
        Pixels along an edge.
    fov_mm
        Edge, mm.
    centre_y_mm
        Anterior-posterior position of the centre, mm.
    """

    size: int
    fov_mm: float
    centre_y_mm: float

    @property
    def pixel_mm(self) -> float:
        """Size of a pixel, mm."""
        return self.fov_mm / self.size

    def axes(self) -> tuple[FloatImage, FloatImage]:
        """Coordinates of the columns (x) and rows (y), mm."""
        steps = (np.arange(self.size, dtype=np.float32) - (self.size - 1) / 2.0) * np.float32(self.pixel_mm)
        return steps, steps + np.float32(self.centre_y_mm)


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in one slice: centre and semi-axes in mm, turned by `angle` (radians)."""

    x: float
    y: float
    a: float
    b: float
    angle: float = 0.0

    def shrunk(self, by_mm: float) -> Ellipse:
        """The same ellipse, smaller by a rim."""
        return Ellipse(self.x, self.y, max(self.a - by_mm, 0.1), max(self.b - by_mm, 0.1), self.angle)


class Canvas:
    """Water and fat amplitude of one slice, painted over in order; edges are one pixel soft."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.x, self.y = grid.axes()
        self.water: FloatImage = np.zeros((grid.size, grid.size), dtype=np.float32)
        self.fat: FloatImage = np.zeros((grid.size, grid.size), dtype=np.float32)

    def box(self, shape: Ellipse) -> tuple[slice, slice]:
        """Rows and columns that the shape can touch."""
        reach_x = math.hypot(shape.a * math.cos(shape.angle), shape.b * math.sin(shape.angle))
        reach_y = math.hypot(shape.a * math.sin(shape.angle), shape.b * math.cos(shape.angle))
        pixel = self.grid.pixel_mm
        first_column = int((shape.x - reach_x - self.x[0]) / pixel) - 1
        last_column = int((shape.x + reach_x - self.x[0]) / pixel) + 3
        first_row = int((shape.y - reach_y - self.y[0]) / pixel) - 1
        last_row = int((shape.y + reach_y - self.y[0]) / pixel) + 3
        size = self.grid.size

        def clip(value: int) -> int:
            return min(max(value, 0), size)

        return slice(clip(first_row), clip(last_row)), slice(clip(first_column), clip(last_column))

    def distance(self, shape: Ellipse, box: tuple[slice, slice]) -> FloatImage:
        """Normalised radius inside the box: below 1 inside the ellipse."""
        dy = (self.y[box[0]] - np.float32(shape.y))[:, None]
        dx = (self.x[box[1]] - np.float32(shape.x))[None, :]
        if shape.angle == 0.0:
            along, across = dx / np.float32(shape.a), dy / np.float32(shape.b)
        else:
            cos, sin = np.float32(math.cos(shape.angle)), np.float32(math.sin(shape.angle))
            along = (dx * cos + dy * sin) / np.float32(shape.a)
            across = (dy * cos - dx * sin) / np.float32(shape.b)
        radius: FloatImage = np.add(along * along, across * across)
        return np.sqrt(radius, out=radius)

    def coverage(self, shape: Ellipse, box: tuple[slice, slice]) -> FloatImage:
        """Share of each pixel that the shape covers, 0 to 1."""
        share = self.distance(shape, box)
        slope = np.float32(min(shape.a, shape.b) / self.grid.pixel_mm)
        np.subtract(np.float32(1.0), share, out=share)
        share *= slope
        share += np.float32(0.5)
        return np.clip(share, 0.0, 1.0, out=share)

    def blend(self, box: tuple[slice, slice], share: FloatImage, amplitude: tuple[float, float]) -> None:
        """Replace `share` of what lies in the box by a tissue of this (water, fat) amplitude."""
        for image, value in ((self.water, amplitude[0]), (self.fat, amplitude[1])):
            part = image[box]
            part += share * (np.float32(value) - part)

    def ellipse(self, shape: Ellipse, amplitude: tuple[float, float], opacity: float = 1.0) -> None:
        """Paint one ellipse."""
        box = self.box(shape)
        share = self.coverage(shape, box)
        self.blend(box, share if opacity == 1.0 else share * np.float32(opacity), amplitude)


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One patient. Lengths in mm; `seed` draws the texture and the small structures."""

    seed: int
    chest_half_width: float
    chest_half_depth: float
    subcutaneous_fat: float
    skin: float
    breast_offset: float
    breast_half_width: tuple[float, float]
    breast_projection: tuple[float, float]
    breast_half_height: float
    breast_splay: float
    gland_amount: float
    gland_sharpness: float
    texture_exponent: float
    heart_scale: float
    lateral_offset: float
    rib_phase: float
    vessel_count: int
    lesion_radius: float
    lesion_side: int
    lesion_position: tuple[float, float, float]
    t1_scale: Mapping[str, float]

    @property
    def body_width_mm(self) -> float:
        """Largest left-right extent, to which a technologist fits the field of view."""
        breasts = self.breast_offset + max(self.breast_half_width) + 8.0
        return 2.0 * max(self.chest_half_width, breasts)

    def grid(self, fov_mm: float, *, size: int = 512, margin_mm: float = 22.0) -> Grid:
        """Grid over the field of view whose anterior edge keeps a margin before the breasts."""
        return Grid(size, fov_mm, fov_mm / 2.0 - max(self.breast_projection) - margin_mm)

    def texture(self, grid: Grid, thickness_mm: float) -> Texture:
        """Texture of this patient on one grid and slice thickness; make it once per series."""
        rng = np.random.default_rng([self.seed, 1])
        return make_texture(
            rng,
            size=grid.size,
            pixel_mm=grid.pixel_mm,
            exponent=self.texture_exponent,
            thickness_mm=thickness_mm,
        )

    def slice(
        self, z_mm: float, grid: Grid, amplitudes: Mapping[str, tuple[float, float]], texture: Texture
    ) -> tuple[FloatImage, FloatImage]:
        """Draw the water and fat amplitude of one slice.

        Parameters
        ----------
        z_mm
            Position towards the head, mm.
        grid
            Where to draw, from `grid`.
        amplitudes
            (water, fat) amplitude per tissue, from `sequences.tissue_amplitudes`.
        texture
            From `texture`, on the same grid.

        Returns
        -------
        tuple of arrays
            Water and fat, (size, size), float32, rows towards posterior, columns towards the patient's left.
        """
        canvas = Canvas(grid)
        field = texture.at(z_mm)
        chest = self._chest(z_mm)
        lobes = self._lobes(z_mm)
        for shape in (*lobes, chest):
            canvas.ellipse(shape, amplitudes["skin"])
        for shape in (*lobes, chest):
            canvas.ellipse(shape.shrunk(self.skin), amplitudes["adipose"])
        for side, lobe in enumerate(lobes):
            self._gland(canvas, lobe, field, amplitudes)
            self._small_structures(canvas, lobe, z_mm, side, amplitudes)
        self._thorax(canvas, chest, z_mm, amplitudes)
        modulation = field * np.float32(0.035) + np.float32(1.0)
        canvas.water *= modulation
        canvas.fat *= modulation
        return canvas.water, canvas.fat

    def heart_region(self, z_mm: float) -> Ellipse | None:
        """The heart in one slice, for its motion ghosts; None above and below it."""
        span = 1.0 - ((z_mm + 15.0) / 62.0) ** 2
        if span <= 0.05:
            return None
        size = self.heart_scale * math.sqrt(span)
        y = 0.62 * self.chest_half_depth
        return Ellipse(self.lateral_offset + 24.0 * self.heart_scale, y, 50.0 * size, 38.0 * size, 0.5)

    def _chest(self, z_mm: float) -> Ellipse:
        taper = 1.0 - 0.0011 * max(z_mm, 0.0)
        return Ellipse(
            self.lateral_offset, self.chest_half_depth, self.chest_half_width * taper, self.chest_half_depth
        )

    def _lobes(self, z_mm: float) -> list[Ellipse]:
        """Both breasts as ellipses reaching out of the chest, patient's right first."""
        height = 1.0 - (z_mm / self.breast_half_height) ** 2
        if height <= 0.03:
            return []
        size = math.sqrt(height)
        lobes = []
        for side, sign in enumerate((-1.0, 1.0)):
            half_width = self.breast_half_width[side] * (0.35 + 0.65 * size)
            depth = self.breast_projection[side] * size + 22.0
            x = self.lateral_offset + sign * self.breast_offset
            lobes.append(Ellipse(x, 22.0, half_width, depth, sign * self.breast_splay))
        return lobes

    def _gland(
        self, canvas: Canvas, lobe: Ellipse, field: FloatImage, amplitudes: Mapping[str, tuple[float, float]]
    ) -> None:
        """Fibroglandular tissue and its strands within one breast, front of the chest wall."""
        core = Ellipse(lobe.x, lobe.y - 0.42 * lobe.b, 0.86 * lobe.a, 0.56 * lobe.b, lobe.angle)
        box = canvas.box(core)
        if box[0].stop - box[0].start < 4 or box[1].stop - box[1].start < 4:
            return
        radius = canvas.distance(core, box)
        local = field[box]
        inside = np.clip((np.float32(1.0) - radius) * np.float32(6.0), 0.0, 1.0)
        share = np.float32(self.gland_amount) - np.float32(1.3) * radius * radius + local
        share *= np.float32(self.gland_sharpness)
        share += np.float32(0.5)
        np.clip(share, 0.0, 1.0, out=share)
        strands = np.clip(np.float32(1.0) - np.abs(local) * np.float32(9.0), 0.0, 0.55)
        np.maximum(share, strands, out=share)
        share *= inside
        canvas.blend(box, share, amplitudes["fibroglandular"])

    def _small_structures(
        self,
        canvas: Canvas,
        lobe: Ellipse,
        z_mm: float,
        side: int,
        amplitudes: Mapping[str, tuple[float, float]],
    ) -> None:
        """Nipple, vessels and the lesion of one breast."""
        if abs(z_mm) < 7.0:
            tip_x = lobe.x + math.sin(lobe.angle) * lobe.b
            tip_y = lobe.y - math.cos(lobe.angle) * lobe.b
            canvas.ellipse(Ellipse(tip_x, tip_y, 6.0, 5.5), amplitudes["skin"])
        rng = np.random.default_rng([self.seed, 2, side])
        for _ in range(self.vessel_count):
            u, v, wander, phase, thickness, angle = rng.random(6)
            x = lobe.x + lobe.a * (1.5 * u - 0.75 + 0.1 * math.sin(z_mm / 14.0 + 6.3 * phase))
            y = lobe.y - lobe.b * (0.15 + 0.55 * v + 0.08 * wander * math.sin(z_mm / 11.0 + 6.3 * wander))
            vessel = Ellipse(x, y, 3.0 + 9.0 * angle, 0.5 + 0.8 * thickness, 3.1 * phase)
            canvas.ellipse(vessel, amplitudes["blood"], 0.8)
        if self.lesion_radius > 0.0 and side == self.lesion_side:
            span = self.lesion_radius**2 - (z_mm - self.lesion_position[2]) ** 2
            if span > 0.0:
                radius = math.sqrt(span)
                x = lobe.x + self.lesion_position[0] * lobe.a
                y = lobe.y - self.lesion_position[1] * lobe.b
                canvas.ellipse(Ellipse(x, y, radius, 0.8 * radius, 0.7), amplitudes["lesion"])

    def _thorax(
        self, canvas: Canvas, chest: Ellipse, z_mm: float, amplitudes: Mapping[str, tuple[float, float]]
    ) -> None:
        """Chest wall and what lies within, painted from outside to inside."""
        x0, depth = self.lateral_offset, self.chest_half_depth
        wall = chest.shrunk(self.skin + self.subcutaneous_fat)
        canvas.ellipse(wall, amplitudes["muscle"])
        for sign in (-1.0, 1.0):
            pectoral = Ellipse(x0 + sign * 0.42 * wall.a, 0.20 * depth, 0.36 * wall.a, 9.0, sign * 0.30)
            canvas.ellipse(pectoral, amplitudes["muscle"])
        cavity = wall.shrunk(17.0)
        for sign in (-1.0, 1.0):
            canvas.ellipse(
                Ellipse(x0 + sign * 0.53 * cavity.a, cavity.y, 0.46 * cavity.a, 0.90 * cavity.b, sign * 0.12),
                amplitudes["lung"],
            )
        dome = 1.0 - ((z_mm + 105.0) / 62.0) ** 2
        if dome > 0.02:
            size = math.sqrt(dome)
            liver = Ellipse(x0 - 0.45 * cavity.a, cavity.y, 0.50 * cavity.a * size, 0.80 * cavity.b * size)
            canvas.ellipse(liver, amplitudes["liver"])
        canvas.ellipse(Ellipse(x0, 1.02 * depth, 0.17 * cavity.a, 0.62 * cavity.b), amplitudes["muscle"])
        canvas.ellipse(Ellipse(x0, 0.42 * depth, 0.15 * cavity.a, 0.22 * cavity.b), amplitudes["adipose"])
        heart = self.heart_region(z_mm)
        if heart is not None:
            canvas.ellipse(heart, amplitudes["adipose"])
            canvas.ellipse(heart.shrunk(4.0), amplitudes["heart"])
            for dx, dy, share in ((10.0, 6.0, 0.42), (-17.0, -6.0, 0.36)):
                chamber = Ellipse(heart.x + dx, heart.y + dy, share * heart.a, share * heart.b, heart.angle)
                canvas.ellipse(chamber, amplitudes["blood"])
        else:
            canvas.ellipse(Ellipse(x0 - 14.0, 0.72 * depth, 13.0, 13.0), amplitudes["blood"])
            canvas.ellipse(Ellipse(x0 + 15.0, 0.76 * depth, 12.0, 10.0), amplitudes["blood"])
        canvas.ellipse(Ellipse(x0 + 19.0, 1.28 * depth, 11.0, 11.0), amplitudes["blood"])
        canvas.ellipse(Ellipse(x0, 1.52 * depth, 21.0, 17.0), amplitudes["bone"])
        canvas.ellipse(Ellipse(x0, 1.68 * depth, 8.0, 9.0), amplitudes["muscle"])
        canvas.ellipse(Ellipse(x0, self.skin + self.subcutaneous_fat + 12.0, 17.0, 6.0), amplitudes["bone"])
        ring = wall.shrunk(9.0)
        for rib in range(12):
            angle = 2.0 * math.pi * (rib + self.rib_phase + z_mm / 34.0) / 12.0
            shape = Ellipse(
                ring.x + ring.a * math.cos(angle),
                ring.y + ring.b * math.sin(angle),
                8.0,
                3.6,
                math.atan2(ring.b * math.cos(angle), -ring.a * math.sin(angle)),
            )
            canvas.ellipse(shape, amplitudes["bone"])


def sample_phantom(rng: np.random.Generator) -> Phantom:
    """Draw one patient."""
    half_width = float(np.clip(rng.normal(162.0, 13.0), 128.0, 205.0))
    projection = float(np.clip(rng.normal(68.0, 19.0), 28.0, 118.0))
    breast_half_width = float(np.clip(rng.normal(68.0, 7.0), 48.0, 88.0)) * half_width / 162.0
    asymmetry = rng.normal(1.0, 0.05, size=2)
    lesion = float(rng.uniform(3.5, 16.0)) if rng.random() < 0.6 else 0.0
    half_height = float(np.clip(rng.normal(74.0, 9.0), 52.0, 98.0))
    return Phantom(
        seed=int(rng.integers(2**31)),
        chest_half_width=half_width,
        chest_half_depth=half_width * float(np.clip(rng.normal(0.66, 0.04), 0.55, 0.78)),
        subcutaneous_fat=float(np.clip(rng.normal(11.0, 5.0), 3.0, 28.0)),
        skin=float(rng.uniform(1.4, 2.6)),
        breast_offset=0.52 * half_width + float(rng.normal(0.0, 4.0)),
        breast_half_width=(breast_half_width, breast_half_width * float(asymmetry[0])),
        breast_projection=(projection, projection * float(asymmetry[1])),
        breast_half_height=half_height,
        breast_splay=float(rng.normal(0.10, 0.06)),
        gland_amount=float(rng.uniform(-0.9, 1.3)),
        gland_sharpness=float(rng.uniform(0.8, 2.6)),
        texture_exponent=float(np.clip(rng.normal(2.8, 0.2), 2.2, 3.4)),
        heart_scale=float(np.clip(rng.normal(1.0, 0.09), 0.75, 1.25)),
        lateral_offset=float(rng.normal(0.0, 5.0)),
        rib_phase=float(rng.random()),
        vessel_count=int(rng.integers(3, 9)),
        lesion_radius=lesion,
        lesion_side=int(rng.integers(2)),
        lesion_position=(
            float(rng.uniform(-0.5, 0.5)),
            float(rng.uniform(0.35, 0.75)),
            float(rng.uniform(-0.5, 0.5)) * half_height,
        ),
        t1_scale={
            "fibroglandular": float(rng.lognormal(0.0, 0.07)),
            "adipose": float(rng.lognormal(0.0, 0.05)),
            "muscle": float(rng.lognormal(0.0, 0.05)),
            "lesion": float(rng.lognormal(0.0, 0.12)),
        },
    )
