"""A view depends only on its name, lies inside of its video, and is applied as its seven numbers say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, noise_video, write_frames
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.digest import digest_bytes
from pipeline.core.params import ClipParams, ViewsParams
from pipeline.data.views import (
    NUM_VIEW_FIELDS,
    VIEW_POLICY_VERSION,
    View,
    draw_view,
    frame_numbers,
    pixel_digest,
    read_view,
    uniform_view,
)

SHAPES = st.tuples(st.integers(1, 200), st.integers(1, 90), st.integers(1, 90))
CLIPS = st.builds(ClipParams, num_frames=st.integers(1, 32), frame_stride=st.integers(1, 8), size=st.integers(16, 64))
POLICIES = st.builds(
    ViewsParams,
    num_views=st.just(4),
    min_scale=st.floats(0.01, 1.0),
    max_aspect=st.floats(1.0, 4.0),
    flip=st.booleans(),
    mix=st.just("none"),
    mix_share=st.just(1.0),
    mix_alpha=st.just(1.0),
)


def draw(shape=(60, 72, 96), clip=CLIP, views=VIEWS, *, seed=0, purpose="bank", video_id="Drink/1", number=0):
    return draw_view(shape, clip, views, seed=seed, purpose=purpose, video_id=video_id, number=number)


def test_the_same_name_draws_the_same_view_in_any_order():
    names = [{"video_id": video_id, "number": number} for video_id in ("a", "b") for number in range(4)]
    forwards = [draw(**name) for name in names]
    np.random.default_rng().random()
    backwards = [draw(**name) for name in reversed(names)]
    assert forwards == backwards[::-1]


def test_every_part_of_the_name_counts():
    names = [{}, {"seed": 1}, {"purpose": "test"}, {"video_id": "Drink/2"}, {"number": 1}]
    views = [draw((1000, 900, 900), **name) for name in names]
    assert len(set(views)) == len(views)


def test_where_purpose_ends_and_video_begins_counts():
    assert draw((1000, 900, 900), purpose="a", video_id="b/c") != draw((1000, 900, 900), purpose="ab", video_id="/c")


def test_the_flag_for_mirroring_shifts_nothing_else():
    for number in range(20):
        view = draw(number=number)
        assert draw(number=number, views=VIEWS.model_copy(update={"flip": False})) == replace(view, flip=0)


# Golden: if one of these changes, VIEW_POLICY_VERSION must change with it, since stores name their policy by it.
def test_views_of_policy_version_1():
    clip = ClipParams(num_frames=8, frame_stride=4, size=64)
    views = VIEWS.model_copy(update={"num_views": 24, "min_scale": 0.6, "max_aspect": 1.2})
    first = draw((90, 72, 96), clip, views, seed=0, video_id="Drink/Drink_1_1", number=0)
    other = draw((33, 72, 128), clip, views, seed=7, video_id="Wave/Wave_10_3", number=23)
    assert VIEW_POLICY_VERSION == 1
    assert first.row() == (54, 4, 6, 23, 63, 67, 1)
    assert other.row() == (3, 4, 0, 34, 72, 85, 0)


def inside(view, shape_THW, clip):
    num_frames, height, width = shape_THW
    last = view.first_frame + (clip.num_frames - 1) * view.frame_stride
    in_time = last < num_frames or (clip.num_frames > num_frames and view.frame_stride == 1 and view.first_frame == 0)
    return in_time and view.top + view.height <= height and view.left + view.width <= width


@given(SHAPES, CLIPS, POLICIES, st.integers(0, 2**32 - 1), st.integers(0, 1000))
def test_a_drawn_view_lies_in_the_video(shape_THW, clip, policy, seed, number):
    view = draw(shape_THW, clip, policy, seed=seed, number=number)
    assert inside(view, shape_THW, clip)
    assert view.frame_stride <= clip.frame_stride


@given(SHAPES, CLIPS, st.integers(1, 10), st.data())
def test_a_uniform_view_lies_in_the_video_and_is_its_middle_square(shape_THW, clip, num_clips, data):
    index = data.draw(st.integers(0, num_clips - 1))
    view = uniform_view(shape_THW, clip, index=index, num_clips=num_clips)
    _, height, width = shape_THW
    assert inside(view, shape_THW, clip)
    assert view.height == view.width == min(height, width)
    assert abs(2 * view.top + view.height - height) <= 1
    assert abs(2 * view.left + view.width - width) <= 1
    assert view.flip == 0


@given(SHAPES, CLIPS)
def test_the_stride_is_the_asked_one_wherever_it_fits(shape_THW, clip):
    view = uniform_view(shape_THW, clip, index=0, num_clips=1)
    fits = (clip.num_frames - 1) * clip.frame_stride < shape_THW[0]
    assert not fits or clip.num_frames == 1 or view.frame_stride == clip.frame_stride


@given(SHAPES, CLIPS, st.integers(2, 10))
def test_uniform_views_go_through_the_video_evenly(shape_THW, clip, num_clips):
    starts = [uniform_view(shape_THW, clip, index=i, num_clips=num_clips).first_frame for i in range(num_clips)]
    steps = np.diff(starts)
    assert (steps >= 0).all()
    assert steps.max() - steps.min() <= 2  # 1 from rounding at each end
    span = (clip.num_frames - 1) * uniform_view(shape_THW, clip, index=0, num_clips=1).frame_stride
    assert abs(starts[0] - (max(shape_THW[0] - 1 - span, 0) - starts[-1])) <= 1  # as far from the end as from the start


@given(SHAPES, CLIPS, st.integers(1, 4), st.data())
def test_three_crops_reach_from_edge_to_edge_around_the_centre(shape_THW, clip, num_clips, data):
    index = data.draw(st.integers(0, num_clips - 1))
    first, middle, last = (
        uniform_view(shape_THW, clip, index=index, num_clips=num_clips, crop=crop, num_crops=3) for crop in range(3)
    )
    assert middle == uniform_view(shape_THW, clip, index=index, num_clips=num_clips)
    assert (first.top, first.left) == (0, 0)
    assert (last.top + last.height, last.left + last.width) == shape_THW[1:]
    assert len({(view.first_frame, view.frame_stride, view.height, view.width) for view in (first, middle, last)}) == 1


def test_many_draws_cover_what_the_policy_allows():
    views = [draw((60, 80, 80), number=number) for number in range(400)]
    areas = np.array([view.height * view.width / 6400 for view in views])
    aspects = np.array([view.width / view.height for view in views])
    assert 0.48 < areas.min() < 0.55
    assert areas.max() > 0.9
    assert 0.78 < aspects.min() < 0.85
    assert 1.18 < aspects.max() < 1.28
    assert {view.first_frame for view in views} == set(range(58))
    assert 0.4 < np.mean([view.flip for view in views]) < 0.6


@given(st.tuples(st.just(20), st.integers(40, 200), st.integers(40, 200)), st.integers(0, 1000))
@example((20, 40, 72), 1)
def test_a_crop_is_never_narrower_or_wider_than_allowed(shape_THW, number):
    view = draw(shape_THW, number=number)
    slack = 1.5 / min(view.height, view.width)  # rounded to pixels
    assert (1 - slack) / VIEWS.max_aspect <= view.width / view.height <= (1 + slack) * VIEWS.max_aspect


@given(st.tuples(st.just(20), st.integers(40, 200), st.integers(40, 200)), st.integers(0, 1000))
def test_a_crop_covers_the_least_share_unless_the_frame_is_too_long_for_it(shape_THW, number):
    view = draw(shape_THW, number=number)
    _, height, width = shape_THW
    largest = min(height, width) ** 2 / VIEWS.max_aspect  # fits at any aspect
    asked = VIEWS.min_scale * height * width
    assert view.height * view.width >= min(asked, largest) - (view.height + view.width) / 2 - 1


@pytest.mark.parametrize(
    "wrong",
    [{"first_frame": -1}, {"frame_stride": 0}, {"top": -1}, {"left": -1}, {"height": 0}, {"width": 0}, {"flip": 2}],
    ids=str,
)
def test_numbers_that_are_no_view_are_refused(wrong):
    with pytest.raises(ValueError, match="not a view"):
        replace(View(0, 1, 0, 0, 4, 4, 0), **wrong)


def test_a_row_has_the_fields_in_the_order_of_the_store():
    view = View(first_frame=1, frame_stride=2, top=3, left=4, height=5, width=6, flip=1)
    assert view.row() == (1, 2, 3, 4, 5, 6, 1)
    assert View(*view.row()) == view
    assert len(view.row()) == NUM_VIEW_FIELDS


# read_view


@pytest.fixture(scope="module")
def videos():
    return {name: noise_video(name, shape) for name, shape in {"long": (12, 20, 30), "short": (3, 16, 24)}.items()}


@pytest.fixture(scope="module")
def frames(videos, tmp_path_factory):
    return write_frames(tmp_path_factory.mktemp("frames"), videos)


@given(st.integers(0, 5), st.integers(1, 2), st.integers(0, 4), st.integers(0, 14), st.booleans())
def test_a_view_of_the_clips_own_size_is_the_pixels_themselves(videos, frames, first, stride, top, left, flip):
    clip = ClipParams(num_frames=4, frame_stride=stride, size=16)
    view = View(first, stride, top, left, 16, 16, int(flip))
    box = videos["long"][first : first + 4 * stride : stride, top : top + 16, left : left + 16]
    expected = box[:, :, ::-1] if flip else box
    assert np.array_equal(read_view(frames, "long", view, clip).numpy(), expected)


def test_a_short_video_starts_over(videos, frames):
    clip = ClipParams(num_frames=8, frame_stride=2, size=16)
    found = read_view(frames, "short", View(0, 1, 0, 4, 16, 16, 0), clip).numpy()
    assert np.array_equal(found, videos["short"][[0, 1, 2, 0, 1, 2, 0, 1], :, 4:20])


@pytest.mark.parametrize("box", [(2, 3, 17, 25), (0, 0, 20, 30), (4, 5, 9, 11), (0, 0, 1, 1)])
def test_mirrored_is_the_mirror_image_of_not_mirrored(frames, box):
    view = View(1, 2, *box, 0)
    plain = read_view(frames, "long", view, CLIP)
    mirrored = read_view(frames, "long", replace(view, flip=1), CLIP)
    assert int((plain.flip(2).int() - mirrored.int()).abs().max()) <= 1  # the resize rounds


def triangle_weights(num_in, num_out):
    """Antialiased linear interpolation as a matrix: a triangle as wide as the reduction, normalised."""
    scale = num_in / num_out
    centres = (np.arange(num_out) + 0.5) * scale - 0.5
    distance = np.abs(centres[:, None] - np.arange(num_in)[None]) / max(scale, 1.0)
    weights = np.maximum(1 - distance, 0)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("box", [(0, 0, 20, 30), (2, 3, 18, 17), (4, 5, 9, 11), (1, 2, 16, 28), (3, 3, 1, 7)])
def test_resizing_is_antialiased_linear_interpolation(videos, frames, box):
    top, left, height, width = box
    found = read_view(frames, "long", View(0, 2, *box, 0), CLIP).numpy()
    pixels = videos["long"][[0, 2], top : top + height, left : left + width].astype(float)
    rows, columns = triangle_weights(height, 16), triangle_weights(width, 16)
    expected = np.einsum("yh,thwc,xw->tyxc", rows, pixels, columns)
    assert np.abs(found - expected).max() <= 1.01  # it rounds between the two directions


def test_a_clip_is_contiguous_uint8_in_the_order_thwc(frames):
    clip_THWC = read_view(frames, "long", View(0, 1, 0, 0, 19, 30, 1), CLIP)
    assert clip_THWC.shape == (2, 16, 16, 3)
    assert clip_THWC.dtype == torch.uint8
    assert clip_THWC.is_contiguous()


def test_teacher_and_student_see_the_same_place(tmp_path, videos):
    """Brighter frames of the same geometry: the same name draws the same view, and its pixels are the brighter ones."""
    dark = write_frames(tmp_path / "dark", {name: video // 4 for name, video in videos.items()})
    enhanced = write_frames(tmp_path / "enhanced", {name: video // 4 + 100 for name, video in videos.items()})
    for number in range(10):
        view = draw(dark.shape("long"), number=number)
        assert view == draw(enhanced.shape("long"), number=number)
        lifted = read_view(dark, "long", view, CLIP).int() + 100
        assert (lifted - read_view(enhanced, "long", view, CLIP).int()).abs().max() <= 1


def test_pixel_digest_names_the_pixels():
    clip_THWC = noise_video("clip", (2, 4, 4))
    changed = clip_THWC.copy()
    changed[1, 2, 3, 0] ^= 1
    assert pixel_digest(clip_THWC) == int(digest_bytes(clip_THWC.tobytes())[:16], 16)
    assert pixel_digest(changed) != pixel_digest(clip_THWC)
    assert pixel_digest(np.asfortranarray(clip_THWC)) == pixel_digest(clip_THWC)


# as a teacher sees it


@given(SHAPES, CLIPS, POLICIES, st.integers(1, 4), st.integers(0, 100))
def test_a_teachers_clip_has_the_frames_of_the_view_and_others_between_them(shape_THW, clip, policy, times, number):
    clip = clip.model_copy(update={"frame_stride": times * clip.frame_stride})
    denser = {"num_frames": times * clip.num_frames, "frame_stride": clip.frame_stride // times, "size": 70}
    teacher_clip = ClipParams(**denser)
    assert teacher_clip.shows_all_of(clip)
    view, num_frames = draw(shape_THW, clip, policy, number=number), shape_THW[0]
    own = frame_numbers(view, clip, num_frames)
    found = frame_numbers(view, clip, num_frames, shown_as=teacher_clip)
    assert len(found) == teacher_clip.num_frames
    assert np.array_equal(found[::times], own)
    assert found.min() >= 0
    assert found.max() < num_frames
    if view.first_frame + (clip.num_frames - 1) * view.frame_stride < num_frames:
        assert (np.diff(found) >= 0).all()
        assert (np.diff(found) <= -(-view.frame_stride // times)).all()
    if view.frame_stride == clip.frame_stride and found.max() < num_frames - 1:
        assert (np.diff(found) == teacher_clip.frame_stride).all()


@given(SHAPES, CLIPS, POLICIES)
def test_a_clip_shown_as_itself_is_itself(shape_THW, clip, policy):
    view = draw(shape_THW, clip, policy)
    frames = frame_numbers(view, clip, shape_THW[0])
    assert np.array_equal(frame_numbers(view, clip, shape_THW[0], shown_as=clip), frames)


@pytest.mark.parametrize(("num_frames", "frame_stride"), [(16, 4), (12, 2), (4, 8), (16, 1), (24, 2)])
def test_a_clip_of_another_time_does_not_show_all(num_frames, frame_stride):
    clip = ClipParams(num_frames=8, frame_stride=4, size=16)
    assert not ClipParams(num_frames=num_frames, frame_stride=frame_stride, size=16).shows_all_of(clip)


def test_a_teachers_clip_is_the_same_box_of_the_frames_with_more_pixels(tmp_path):
    video = noise_video("v", (9, 20, 30))
    frames = write_frames(tmp_path / "frames", {"v": video})
    clip = ClipParams(num_frames=2, frame_stride=2, size=16)
    teacher_clip = ClipParams(num_frames=4, frame_stride=1, size=24)
    view = View(3, 2, 1, 2, 18, 24, 1)
    found = read_view(frames, "v", view, clip, shown_as=teacher_clip)
    box = np.ascontiguousarray(video[3:7, 1:19, 2:26, :][:, :, ::-1])
    box_TCHW = torch.from_numpy(box).permute(0, 3, 1, 2)
    expected_TCHW = torch.nn.functional.interpolate(box_TCHW, size=(24, 24), mode="bilinear", antialias=True)
    assert torch.equal(found, expected_TCHW.permute(0, 2, 3, 1))
