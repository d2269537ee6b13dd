"""Corruptions do what closed forms and scipy say, and are the same for every run."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from bench.evaluations.corruptions import CORRUPTIONS, OCCLUDED, TRUNCATE, corrupt
from bench.rng import stream
from bench.task import SHIFT_COLOUR, SHIFT_GREY

SCALES = {"grey": (SHIFT_GREY, (1, 28, 28)), "colour": (SHIFT_COLOUR, (3, 32, 32))}
SEVERITIES = range(1, 6)


def images(shape, count=6):
    """Smooth images, so that interpolation and blur have something to keep."""
    noise = torch.rand(count, *shape, generator=stream(1, "images")).numpy()
    smooth = ndimage.gaussian_filter(noise, (0, 0, 2, 2))
    low, high = smooth.min(), smooth.max()
    return torch.from_numpy((smooth - low) / (high - low))


@pytest.fixture(params=SCALES)
def case(request):
    shift, shape = SCALES[request.param]
    return shift, images(shape)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_has_five_severities_and_keeps_the_range(name, case):
    shift, x = case
    assert len(getattr(shift, name)) == len(SEVERITIES)
    for severity in SEVERITIES:
        found = corrupt(x, name, severity, shift)
        assert found.shape == x.shape and found.dtype == x.dtype and not torch.equal(found, x)
        assert found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("name", ("noise", "blur", "contrast", "occlusion"))
def test_severity_is_distance_from_the_clean_image(name, case):
    shift, x = case
    distances = [float((corrupt(x, name, s, shift) - x).square().mean()) for s in SEVERITIES]
    assert distances == sorted(distances) and distances[0] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_are_the_same_in_every_run_and_whatever_follows_them(name, case):
    shift, x = case
    before = x.clone()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    whole = corrupt(x, name, 3, shift)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(x, before)
    torch.manual_seed(8)
    assert torch.equal(corrupt(x, name, 3, shift), whole)
    assert torch.allclose(corrupt(x[:2], name, 3, shift), whole[:2], rtol=0, atol=1e-6)


def test_the_last_rotation_turns_images_upside_down(case):
    shift, x = case
    assert torch.allclose(corrupt(x, "rotation", 5, shift), x.flip(-1, -2), atol=1e-4)


@pytest.mark.parametrize(("shift", "shape"), SCALES.values())
def test_translations_move_columns_and_lose_none(shift, shape):
    x = torch.arange(shape[-1], dtype=torch.float32).expand(1, *shape)  # a pixel is its column
    moved = [int(corrupt(x, "translation", s, shift)[0, 0, 0].argmin()) for s in SEVERITIES]
    assert moved == ([2, 4, 6, 8, 10] if shape[-1] == 28 else [2, 5, 7, 9, 11])
    assert sorted(corrupt(x, "translation", 5, shift)[0, 0, 0].tolist()) == list(range(shape[-1]))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blur_is_scipy_s_gaussian_filter(severity, case):
    shift, x = case
    sd = shift.blur[severity - 1]
    radius = min(math.ceil(TRUNCATE * sd), x.shape[-1] - 1)
    expected = ndimage.gaussian_filter(
        x.numpy(), (0, 0, sd, sd), mode="mirror", radius=(0, 0, radius, radius)
    )
    assert np.allclose(corrupt(x, "blur", severity, shift), expected, atol=1e-5)


def test_contrast_scales_the_distance_from_the_mean(case):
    shift, x = case
    grey = x[:, :1].expand_as(x)  # whose mean brightness is the mean of any channel
    mean = grey.mean((1, 2, 3), keepdim=True)
    expected = mean + shift.contrast[4] * (grey - mean)
    assert torch.allclose(corrupt(grey, "contrast", 5, shift), expected, atol=1e-3)


def test_noise_is_one_draw_of_the_stated_standard_deviation():
    x = torch.full((200, 1, 28, 28), 0.5)
    weak, strong = ((corrupt(x, "noise", s, SHIFT_GREY) - 0.5) / SHIFT_GREY.noise[s - 1] for s in (1, 2))
    assert float(weak.std()) == pytest.approx(1, abs=0.01) and float(weak.mean()) == pytest.approx(
        0, abs=0.01
    )
    within = strong.abs() < 4  # not clipped
    assert torch.allclose(weak[within], strong[within], atol=1e-4)
    assert not torch.equal(weak[0], weak[1])


def test_noise_of_a_grain_is_noise_on_the_images_before_interpolation():
    def upsampled(small):
        return torch.nn.functional.interpolate(small, size=28, mode="bilinear")

    small = torch.full((50, 1, 8, 8), 0.5)
    found = corrupt(upsampled(small), "noise", 1, dataclasses.replace(SHIFT_GREY, grain=8))
    assert torch.allclose(found, upsampled(corrupt(small, "noise", 1, SHIFT_GREY)), atol=1e-6)


def test_occlusion_is_one_grey_square_inside_the_image(case):
    shift, x = case
    x = x * 0.4  # nowhere the brightness of the square
    for severity in SEVERITIES:
        side = round(shift.occlusion[severity - 1] * x.shape[-1])
        for before, after in zip(x, corrupt(x, "occlusion", severity, shift), strict=True):
            hidden = (after != before).all(0)
            rows, columns = hidden.any(1).nonzero(), hidden.any(0).nonzero()
            assert int(hidden.sum()) == side**2 and len(rows) == len(columns) == side
            assert bool((after[:, hidden] == OCCLUDED).all())
