"""A clip's light changes by its name alone, in the way that was asked for, and never its geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, one_thread, tiny_data, train_params  # noqa: F401 - a fixture

from pipeline.data.dataset import BANK, ClipDataset, DrawnViews, samples_of
from pipeline.data.frames import encoded, expanded
from pipeline.train.augmentation import LightAugmentation, light_augmentation


def clip(level=80, shape=(4, 16, 16, 3)):
    return torch.full(shape, level, dtype=torch.uint8)


def test_it_is_none_unless_something_is_asked_for():
    assert light_augmentation(train_params(), seed=0) is None
    for name in ("gain", "noise", "darken"):
        assert light_augmentation(train_params(**{name: 0.5}), seed=0) is not None


def test_the_name_and_nothing_else_decides():
    change = LightAugmentation(gain=1.0, noise=3.0, darken=0.5, seed=3)
    first = change(clip(), "a/b", 2)
    assert torch.equal(change(clip(), "a/b", 2), first)
    other_seed = LightAugmentation(1.0, 3.0, 0.5, seed=4)
    for other in (
        change(clip(), "a/c", 2),
        change(clip(), "a/b", 3),
        other_seed(clip(), "a/b", 2),
    ):
        assert not torch.equal(other, first)


def test_the_clip_it_was_given_stays_as_it_is():
    given = clip()
    LightAugmentation(1.0, 3.0, 1.0, seed=0)(given, "a", 0)
    assert torch.equal(given, clip())


def test_gain_is_uniform_in_stops():
    change = LightAugmentation(gain=1.0, noise=0.0, darken=0.0, seed=0)
    stops = np.log2([change(clip(), "a", number).float().mean().item() / 80 for number in range(600)])
    assert -1.02 <= stops.min() < -0.9
    assert 0.9 < stops.max() <= 1.02
    assert np.mean(stops) == pytest.approx(0, abs=0.06)


def test_noise_has_a_deviation_up_to_what_is_asked_for_and_no_bias():
    change = LightAugmentation(gain=0.0, noise=6.0, darken=0.0, seed=0)
    changed = [change(clip(shape=(8, 32, 32, 3)), "a", number).float() for number in range(200)]
    deviations = np.array([one.std().item() for one in changed])
    assert deviations.max() < 6.3
    assert np.median(deviations) == pytest.approx(3.0, abs=0.6)
    assert np.mean([one.mean().item() for one in changed]) == pytest.approx(80, abs=0.05)


def test_so_many_clips_are_darkened_and_about_a_stop():
    change = LightAugmentation(gain=0.0, noise=0.0, darken=0.3, seed=0)
    means = np.array([change(clip(), "a", number).float().mean().item() for number in range(400)])
    assert (means != 80).mean() == pytest.approx(0.3, abs=0.07)
    assert np.median(means[means != 80]) == pytest.approx(57, abs=4)  # half of the light, in display values


@pytest.mark.parametrize("knobs", [(1.0, 0.0, 0.0), (0.0, 6.0, 0.0), (0.0, 0.0, 1.0)], ids=["gain", "noise", "darken"])
def test_codes_change_as_their_values_do(knobs):
    values = clip(120)
    codes = torch.from_numpy(encoded(values.numpy().astype(np.float32), "companded"))
    for number in range(10):
        linear = LightAugmentation(*knobs, seed=0)(values, "a", number).numpy().astype(float)
        changed = LightAugmentation(*knobs, seed=0, levels="companded")(codes, "a", number).numpy()
        assert np.abs(expanded(changed, "companded") - linear).max() <= 2


def test_values_stay_within_what_a_pixel_holds():
    change = LightAugmentation(gain=3.0, noise=40.0, darken=0.5, seed=0)
    for level in (0, 255):
        for number in range(20):
            assert change(clip(level), "a", number).dtype == torch.uint8


def test_a_knob_does_not_shift_what_the_others_draw():
    gain, both = LightAugmentation(1.0, 0.0, 0.0, 0), LightAugmentation(1.0, 1e-3, 0.0, 0)
    for number in range(10):
        assert (gain(clip(), "a", number).int() - both(clip(), "a", number).int()).abs().max() <= 1


def test_the_student_sees_it_and_the_teacher_does_not(tmp_path):
    manifest, frames = tiny_data(tmp_path)
    samples = samples_of(manifest, frames, "train")
    views = DrawnViews(frames, CLIP, VIEWS, seed=0, purpose=BANK)
    plain = ClipDataset(frames, samples, views, CLIP, frames)[0, 1]
    changed = ClipDataset(frames, samples, views, CLIP, frames, LightAugmentation(1.0, 3.0, 1.0, seed=0))[0, 1]
    assert not torch.equal(plain[0], changed[0])
    assert torch.equal(plain[3], changed[3])
    assert plain[3].shape == changed[0].shape
