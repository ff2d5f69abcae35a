"""What the network sees: the paper's path, and a spectrum that shows the acquired matrix.

Not here: whether a network learns from it (training's evaluation).
"""

import numpy as np
import pytest
import torch

from iap_node.inference.preprocess import PAPER, Preprocessing, prepare_series, prepare_slice, resize_bilinear

SPECTRUM = Preprocessing(size=128, channels=("spectrum",))  # 2 cycles per field of view in one pixel


def band_limited(size: int, frequency: int, phase: int, seed: int = 0) -> np.ndarray:
    """A positive image of `size` pixels with k-space content in a `frequency` x `phase` matrix only."""
    rng = np.random.default_rng(seed)
    kspace = np.zeros((size, size), complex)
    half = [slice(size // 2 - n // 2 + 1, size // 2 + n // 2) for n in (phase, frequency)]
    shape = tuple(part.stop - part.start for part in half)
    kspace[half[0], half[1]] = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    image = np.fft.ifft2(np.fft.ifftshift(kspace)).real * size**2
    return image - image.min() + 10.0


@pytest.mark.parametrize("shape", [(320, 320), (512, 512), (251, 448), (96, 640)])
def test_paper_path_is_scaling_to_bytes_and_torch_bilinear(shape):
    pixels = np.random.default_rng(1).integers(0, 1500, shape).astype(np.float32)
    as_bytes = (pixels / pixels.max() * np.float32(255)).astype(np.uint8).astype(np.float32)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(as_bytes)[None, None], (224, 224), mode="bilinear", align_corners=False, antialias=False
    )[0].numpy()
    np.testing.assert_allclose(prepare_slice(pixels, PAPER), wanted, atol=0.01)  # single-precision positions


def test_bilinear_resizing_keeps_a_linear_ramp_linear():
    ramp = np.tile(np.arange(64, dtype=np.float32), (64, 1))
    resized = resize_bilinear(ramp, 32)
    np.testing.assert_allclose(np.diff(resized[0]), 2.0, atol=1e-4)


@pytest.mark.parametrize("size", [400, 512, 640])
@pytest.mark.parametrize(("frequency", "phase"), [(320, 320), (384, 256), (160, 352)])
def test_spectrum_ends_at_the_acquired_matrix_whatever_the_reconstructed_size(size, frequency, phase):
    plane = prepare_slice(band_limited(size, frequency, phase), SPECTRUM)[0]
    along_columns, along_rows = plane[:8].mean(axis=0), plane[:, :8].mean(axis=1)
    for profile, n in ((along_columns, frequency), (along_rows, phase)):
        edge = n // 4  # half the matrix in cycles, two cycles per pixel
        assert profile[edge - 3 : edge - 1].min() > 60
        assert profile[edge + 1 : edge + 4].max() < 20


def test_spectrum_does_not_tell_the_scale_of_the_pixels():
    image = band_limited(256, 192, 192)
    spec = Preprocessing(size=96, channels=("image", "spectrum"), rounded=True, offset=(0.0, 0.0), scale=(1.0, 1.0))
    np.testing.assert_allclose(prepare_slice(image, spec), prepare_slice(image * 37.0, spec), atol=1)


def test_a_slice_larger_than_the_grid_keeps_its_low_frequencies():
    image = band_limited(1024, 200, 200)
    plane = prepare_slice(image, SPECTRUM)[0]
    assert plane[:40, :40].mean() > 60
    assert plane[60:, 60:].max() < 20


def test_blank_negative_and_not_finite_pixels_give_finite_input():
    spec = Preprocessing(channels=("image", "spectrum"), offset=(0.0, 0.0), scale=(1.0, 1.0))
    assert not prepare_slice(np.zeros((40, 50)), spec).any()
    odd = np.full((40, 50), np.nan)
    odd[3, 4], odd[5, 6], odd[7, 8] = -5.0, np.inf, 9.0
    prepared = prepare_slice(odd, spec)
    assert np.isfinite(prepared).all()
    assert prepared.min() >= 0
    assert prepared.max() <= 255


def test_slices_of_one_series_may_have_other_sizes():
    rng = np.random.default_rng(2)
    prepared = prepare_series([rng.random((64, 64)), rng.random((300, 200)), rng.random((2, 3))], PAPER)
    assert prepared.shape == (3, 1, 224, 224)


def test_what_is_not_a_slice_is_refused():
    with pytest.raises(ValueError, match="rows, columns"):
        prepare_slice(np.zeros((4, 4, 3)), PAPER)
    with pytest.raises(ValueError, match="not empty"):
        prepare_slice(np.zeros((0, 4)), PAPER)


def test_contradictory_specifications_are_refused():
    with pytest.raises(ValueError, match="one entry per channel"):
        Preprocessing(channels=("image", "spectrum"))
    with pytest.raises(ValueError, match="positive"):
        Preprocessing(scale=(0.0,))
