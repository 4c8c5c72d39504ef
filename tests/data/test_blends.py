"""A view may be a blend of two videos: whose is drawn by name, and its pixels are exactly what its numbers say."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, noise_video, write_frames
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.params import ViewsParams
from pipeline.data.dataset import BANK, ClipDataset, DrawnViews, Sample, load_batches
from pipeline.data.listing import NO_LABEL
from pipeline.data.views import (
    FULL_WEIGHT,
    Blend,
    BlendedView,
    View,
    blend_of_row,
    blended,
    draw_blend,
    draw_partners,
    read_view,
)

WHOLE = View(0, 2, 0, 0, 18, 22, 0)
NAMES = [f"video {index}" for index in range(40)]
MIXED = {mix: VIEWS.model_copy(update={"mix": mix, "num_views": 24}) for mix in ("mixup", "cutmix")}


def partners_of(splits, mix="mixup", *, seed=0, share=0.5):
    return draw_partners(splits, MIXED[mix].model_copy(update={"mix_share": share}), seed=seed, purpose=BANK)


def draw(views, *, seed=0, video_id="a", number=0):
    return draw_blend("b", WHOLE, CLIP, views, seed=seed, purpose=BANK, video_id=video_id, number=number)


# partners


def test_partners_are_other_videos_of_the_same_split():
    splits = [NAMES[:25], NAMES[25:39], NAMES[39:]]
    partners = partners_of(splits, share=1.0)
    for split in splits[:2]:
        for video_id in split:
            assert set(partners[video_id]) <= {*split} - {video_id}
    assert set(partners[NAMES[39]]) == {None}  # nobody is there


def test_every_video_is_the_partner_of_one_in_each_number():
    partners = partners_of([NAMES], share=1.0)
    for number in range(24):
        assert Counter(of_views[number] for of_views in partners.values()) == Counter(NAMES)
    assert len({of_views[:3] for of_views in partners.values()}) == len(NAMES)  # another circle in each


@pytest.mark.parametrize("number", [3, 39, 2])
def test_a_video_that_comes_or_goes_changes_one_partner_of_each_number(number):
    before, after = partners_of([NAMES[:number]], share=1.0), partners_of([NAMES[: number + 1]], share=1.0)
    changed = sum(one != other for name in before for one, other in zip(before[name], after[name], strict=True))
    assert changed == 24
    assert partners_of([NAMES[number::-1]], share=1.0) == after  # in whatever order they are given


def test_the_share_of_blends_is_the_one_asked_for_and_does_not_depend_on_other_videos():
    few, many = partners_of([NAMES[:20]], share=0.25), partners_of([NAMES], share=0.25)
    blends = [partner is not None for of_views in many.values() for partner in of_views]
    assert 0.2 < np.mean(blends) < 0.3
    for name in few:
        assert [one is None for one in few[name]] == [other is None for other in many[name]]
    assert few != partners_of([NAMES[:20]], share=0.25, seed=1)


def test_views_that_are_not_mixed_have_no_partners_and_the_policy_that_they_had():
    assert draw_partners([NAMES], VIEWS, seed=0, purpose=BANK) == {}
    policy = VIEWS.policy()
    assert policy == {"num_views": 3, "min_scale": 0.5, "max_aspect": 1.25, "flip": True}
    assert ViewsParams.of_policy(policy).policy() == policy
    assert ViewsParams.of_policy(MIXED["cutmix"].policy()) == MIXED["cutmix"]


# what is drawn


@given(st.integers(0, 2**32 - 1), st.integers(0, 300), st.sampled_from(["mixup", "cutmix"]))
def test_a_blend_depends_on_its_name_and_lies_in_its_clip(seed, number, mix):
    blend = draw(MIXED[mix], seed=seed, number=number)
    assert blend == draw(MIXED[mix], seed=seed, number=number)
    assert blend_of_row("b", blend.row()) == blend
    assert blend.top + blend.height <= CLIP.size
    assert blend.left + blend.width <= CLIP.size
    if mix == "mixup":
        assert 0 < blend.weight < FULL_WEIGHT
        assert (blend.height, blend.width) == (CLIP.size, CLIP.size)
    else:
        assert blend.weight == 0
    assert 0 <= blend.own_share(CLIP.size) < 1


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_drawn_shares_are_spread_as_beta_spreads_them(mix):
    shares = [draw(MIXED[mix], number=number).own_share(CLIP.size) for number in range(2000)]
    if mix == "mixup":  # Beta(1, 1)
        assert np.mean(shares) == pytest.approx(1 / 2, abs=0.03)
        assert np.std(shares) == pytest.approx(1 / 12**0.5, abs=0.02)
    else:  # boxes are cut off at the clip's edge
        assert np.mean(shares) > 1 / 2


@pytest.mark.parametrize(
    "changes", [{"weight": -1}, {"weight": FULL_WEIGHT}, {"top": -1}, {"left": -1}, {"height": 0}, {"width": 0}]
)
def test_what_is_no_blend_is_refused(changes):
    values = {"partner": "b", "view": WHOLE, "weight": 3, "top": 0, "left": 0, "height": 4, "width": 4}
    with pytest.raises(ValueError, match="not a blend"):
        Blend(**{**values, **changes})


# pixels


def noise(name, size, num_frames=2):
    return torch.from_numpy(noise_video(name, (num_frames, size, size)))


def by_hand(own, other, blend, size):
    """Pixel by pixel in fractions; Python rounds them half to even."""
    num_pixels = own.shape[1]
    pixel = Fraction(size, num_pixels)

    def covered(place, start, length):
        return max(Fraction(0), min((place + 1) * pixel, start + length) - max(place * pixel, start)) / pixel

    expected = np.empty(own.shape, dtype=np.uint8)
    for row in range(num_pixels):
        for column in range(num_pixels):
            in_box = covered(row, blend.top, blend.height) * covered(column, blend.left, blend.width)
            share = in_box * Fraction(FULL_WEIGHT - blend.weight, FULL_WEIGHT)
            for place in np.ndindex(own.shape[0], own.shape[3]):
                index = (place[0], row, column, place[1])
                expected[index] = round(share * int(other[index]) + (1 - share) * int(own[index]))
    return expected


BLENDS = [
    Blend("b", WHOLE, 77, 0, 0, 16, 16),
    Blend("b", WHOLE, 128, 0, 0, 16, 16),  # halves are to be rounded
    Blend("b", WHOLE, 0, 3, 5, 8, 11),
    Blend("b", WHOLE, 0, 0, 0, 16, 16),
    Blend("b", WHOLE, 100, 4, 0, 12, 3),
]


@pytest.mark.parametrize("num_pixels", [16, 32, 24, 10])
@pytest.mark.parametrize("blend", BLENDS)
def test_pixels_are_the_weighted_mean_rounded_once(blend, num_pixels):
    own, other = noise("own", num_pixels, 1), noise("other", num_pixels, 1)
    found = blended(own, other, blend, 16)
    assert found.dtype == torch.uint8
    assert np.array_equal(found.numpy(), by_hand(own, other, blend, 16))


def test_cutmix_copies_bytes_and_shows_what_its_share_says():
    own, other, blend = noise("own", 16), noise("other", 16), BLENDS[2]
    expected = own.clone()
    expected[:, 3:11, 5:16] = other[:, 3:11, 5:16]
    assert torch.equal(blended(own, other, blend, 16), expected)
    assert blend.own_share(16) == 1 - 8 * 11 / 256


@pytest.mark.parametrize("num_pixels", [16, 32, 160, 24, 10])
def test_a_box_has_the_same_share_of_the_area_in_every_size(num_pixels):
    """White in black, so that the mean tells it; pixels on the edge are rounded, each by half a level at most."""
    own, other = torch.zeros(1, num_pixels, num_pixels, 3, dtype=torch.uint8), torch.full((1, 1, 1, 3), 255)
    for blend in BLENDS:
        found = blended(own, other.expand_as(own).to(torch.uint8), blend, 16)
        share = 1 - found.double().mean().item() / 255
        assert share == pytest.approx(blend.own_share(16), abs=0.5 / 255)


@given(blend=st.sampled_from(BLENDS), seed=st.integers(0, 100))
def test_a_video_blended_with_itself_stays_itself(blend, seed):
    own = noise(f"own {seed}", 16, 1)
    assert torch.equal(blended(own, own, blend, 16), own)


# views of stored videos


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    videos = {name: noise_video(name, (6, 18 + index, 22)) for index, name in enumerate("abcd")}
    return write_frames(tmp_path_factory.mktemp("frames"), videos)


def source_of(frames, mix):
    partners = draw_partners([frames.video_ids], MIXED[mix], seed=0, purpose=BANK)
    return DrawnViews(frames, CLIP, MIXED[mix], 0, BANK, partners)


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_a_blended_view_is_read_from_both_videos_and_its_own_view_is_the_one_without_blends(frames, mix):
    source, plain = source_of(frames, mix), DrawnViews(frames, CLIP, MIXED[mix], 0, BANK)
    found = Counter()
    for video_id in frames.video_ids:
        for number in range(24):
            view, own = source.lookup(video_id, number)[0], plain.lookup(video_id, number)[0]
            found[type(view)] += 1
            if not isinstance(view, BlendedView):
                assert view == own
                continue
            partner = view.blend.partner
            assert view.own == own
            assert view.blend.view == plain.lookup(partner, number)[0]
            clips = [
                read_view(frames, name, each, CLIP) for name, each in ((video_id, own), (partner, view.blend.view))
            ]
            assert torch.equal(read_view(frames, video_id, view, CLIP), blended(*clips, view.blend, CLIP.size))
    assert min(found[View], found[BlendedView]) > 24


@pytest.mark.parametrize("blend", BLENDS)
def test_a_teacher_with_its_own_geometry_sees_the_same_blend(tmp_path, blend):
    """White in black: each four pixels of the teacher's clip, twice as large, are one of the student's."""
    videos = {"a": np.full((6, 18, 22, 3), 255, np.uint8), "b": np.zeros((6, 18, 22, 3), np.uint8)}
    frames = write_frames(tmp_path, videos)
    teacher_clip = CLIP.model_copy(update={"size": 2 * CLIP.size, "num_frames": 4, "frame_stride": 1})
    view = BlendedView(View(1, 2, 0, 0, 18, 22, 1), blend)
    student = read_view(frames, "a", view, CLIP)
    teacher = read_view(frames, "a", view, CLIP, shown_as=teacher_clip)
    assert teacher.shape == (4, 32, 32, 3)
    large = student[0].repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
    assert all(torch.equal(frame, large) for frame in teacher)


def test_a_batch_has_the_labels_of_both_and_the_share_of_the_first(frames):
    source = source_of(frames, "mixup")
    samples = [Sample("a", 0), Sample("b", 1), Sample("c", 2), Sample("d", 1)]
    label_of = {sample.video_id: sample.label for sample in samples}
    keys = [(index, number) for number in range(24) for index in range(4)]
    dataset = ClipDataset(frames, samples, source, CLIP, teacher_frames=frames)
    (batch,) = load_batches(dataset, iter([keys]), num_workers=0)
    assert torch.equal(batch.teacher_clip_BTHWC, batch.clip_BTHWC)  # as an online teacher sees it
    for place, (index, number) in enumerate(keys):
        view = source.lookup(samples[index].video_id, number)[0]
        assert batch.labels_B[place] == samples[index].label
        blend = view.blend if isinstance(view, BlendedView) else None
        share = 1.0 if blend is None else blend.own_share(CLIP.size)
        second = samples[index].label if blend is None else label_of[blend.partner]
        assert batch.second.own_share_B[place] == pytest.approx(share)
        assert batch.second.labels_B[place] == second
        assert batch.main_labels_B[place] == (second if share < 0.5 else samples[index].label)
    moved = batch.parts(4)[1]
    assert torch.equal(moved.second.labels_B, batch.second.labels_B[24:48])
    assert torch.equal(moved.second.own_share_B, batch.second.own_share_B[24:48])


def test_batches_without_a_blend_have_no_second_labels_and_footage_has_none(frames):
    source = source_of(frames, "cutmix")
    shown = {number: source.lookup("a", number)[0] for number in range(24)}
    plain = next(number for number, view in shown.items() if isinstance(view, View))
    mixed = next(number for number, view in shown.items() if isinstance(view, BlendedView))
    dataset = ClipDataset(frames, [Sample("a", NO_LABEL)], source, CLIP)
    one, two = load_batches(dataset, iter([[(0, plain)], [(0, mixed)]]), num_workers=0)
    assert one.second is None
    assert one.main_labels_B is one.labels_B
    assert two.second.labels_B.tolist() == [NO_LABEL]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_workers_make_the_same_blends(frames, num_workers):
    dataset = ClipDataset(frames, [Sample(name, 0) for name in "abcd"], source_of(frames, "mixup"), CLIP)
    keys = [[(index, number) for index in range(4)] for number in range(6)]
    clips = [batch.clip_BTHWC for batch in load_batches(dataset, iter(keys), num_workers=num_workers)]
    expected = [torch.stack([dataset[key][0] for key in batch]) for batch in keys]
    assert all(map(torch.equal, clips, expected))
