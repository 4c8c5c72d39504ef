"""The zero-reference losses against loops in numpy, and finite gradients where the field's code gives NaN."""

import numpy as np
import pytest
import torch
from builders import one_thread  # noqa: F401 - applies to the file

from pipeline.enhance.fitting_losses import (
    colour_constancy,
    curve_smoothness,
    exposure_error,
    illumination_smoothness,
    sci_losses,
    spatial_consistency,
    zero_dce_losses,
)


def random_frames(*shape, seed=0, low=0.0, high=1.0):
    return np.random.default_rng(seed).uniform(low, high, shape)


def pooled(frames, size):
    """Means of the channels over squares of that size, in a loop."""
    grey = frames.mean(axis=1)
    batch, height, width = grey.shape
    out = np.zeros((batch, height // size, width // size))
    for b, row, column in np.ndindex(*out.shape):
        out[b, row, column] = grey[b, row * size : (row + 1) * size, column * size : (column + 1) * size].mean()
    return out


def test_spatial_consistency_is_its_formula():
    dark, bright = random_frames(2, 3, 20, 24), random_frames(2, 3, 20, 24, seed=1)
    before, after = pooled(dark, 4), pooled(bright, 4)
    batch, rows, columns = before.shape
    total = 0.0
    for b, i, j in np.ndindex(batch, rows, columns):
        for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= y < rows and 0 <= x < columns:
                total += (abs(after[b, i, j] - after[b, y, x]) - abs(before[b, i, j] - before[b, y, x])) ** 2
    result = spatial_consistency(torch.tensor(dark), torch.tensor(bright))
    assert result.item() == pytest.approx(total / before.size)


def test_exposure_error_is_its_formula():
    bright = random_frames(2, 3, 40, 50)
    assert exposure_error(torch.tensor(bright), 0.6).item() == pytest.approx(np.abs(pooled(bright, 16) - 0.6).mean())


def test_colour_constancy_is_its_formula():
    bright = random_frames(3, 3, 5, 7)
    means = bright.mean(axis=(2, 3))
    total = np.mean([(r - g) ** 2 + (r - b) ** 2 + (g - b) ** 2 for r, g, b in means])
    assert colour_constancy(torch.tensor(bright)).item() == pytest.approx(total)


def test_curve_smoothness_is_its_formula():
    curves = random_frames(2, 24, 6, 9, low=-1)
    batch, _, height, width = curves.shape
    down = sum((curves[:, :, y + 1] - curves[:, :, y]) ** 2 for y in range(height - 1)).sum()
    right = sum((curves[:, :, :, x + 1] - curves[:, :, :, x]) ** 2 for x in range(width - 1)).sum()
    expected = 2 * (down / ((height - 1) * width) + right / (height * (width - 1))) / batch
    assert curve_smoothness(torch.tensor(curves)).item() == pytest.approx(expected)


def test_the_terms_have_the_weights_of_the_authors_code():
    dark, bright = torch.tensor(random_frames(1, 3, 32, 32)), torch.tensor(random_frames(1, 3, 32, 32, seed=1))
    for num_curves, smoothness in ((24, 200), (3, 1600)):
        curves = torch.tensor(random_frames(1, num_curves, 32, 32, low=-1))
        terms = zero_dce_losses(dark, bright, curves, exposure=0.5)
        assert {name: value.item() for name, value in terms.items()} == pytest.approx(
            {
                "spatial": spatial_consistency(dark, bright).item(),
                "exposure": 10 * exposure_error(bright, 0.5).item(),
                "colour": 5 * colour_constancy(bright).item(),
                "smoothness": smoothness * curve_smoothness(curves).item(),
            }
        )


def test_illumination_smoothness_is_its_formula():
    frames, light = random_frames(2, 3, 7, 6), random_frames(2, 3, 7, 6, seed=1)
    red, green, blue = frames[:, 0], frames[:, 1], frames[:, 2]
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    similar = np.stack([luma, (blue - luma) / 1.772, (red - luma) / 1.402], axis=1)  # BT.601
    total = 0.0
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            terms = []
            for b, y, x in np.ndindex(2, 7, 6):
                if (dy, dx) == (0, 0) or not (0 <= y + dy < 7 and 0 <= x + dx < 6):
                    continue
                weight = np.exp(-((similar[b, :, y, x] - similar[b, :, y + dy, x + dx]) ** 2).sum() / (2 * 0.1**2))
                terms += list(weight * np.abs(light[b, :, y, x] - light[b, :, y + dy, x + dx]))
            total += np.mean(terms) if terms else 0.0
    result = illumination_smoothness(torch.tensor(frames), torch.tensor(light))
    assert result.item() == pytest.approx(total, rel=1e-4)
    assert sci_losses(torch.tensor(frames), torch.tensor(light))["fidelity"].item() == pytest.approx(
        1.5 * ((frames - light) ** 2).mean()
    )


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("size", [(16, 16), (33, 50)])
def test_losses_and_gradients_are_finite_on_black_grey_and_white(level, size):
    dark = torch.full((2, 3, *size), level)
    bright = dark.clone().requires_grad_()
    curves = torch.zeros(2, 24, size[0] // 8, size[1] // 8, requires_grad=True)
    light = dark.clamp(1e-4, 1).requires_grad_()
    terms = {
        **zero_dce_losses(dark, bright, curves, exposure=0.6),
        **{f"sci {name}": value for name, value in sci_losses(dark, light).items()},
    }
    total = sum(terms.values())
    total.backward()
    assert torch.isfinite(total)
    for leaf in (bright, curves, light):
        assert torch.isfinite(leaf.grad).all()


def test_one_curve_for_the_whole_frame_is_smooth():
    assert curve_smoothness(torch.rand(2, 24, 1, 1)).item() == 0


def test_a_perfect_frame_costs_nothing():
    grey = torch.full((1, 3, 32, 32), 0.6)
    terms = zero_dce_losses(grey, grey, torch.zeros(1, 24, 32, 32), exposure=0.6)
    assert sum(terms.values()).item() == pytest.approx(0, abs=1e-5)
