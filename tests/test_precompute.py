"""The teacher's logits are the teacher's logits, and an interruption costs no more than a part."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import CLIP, VIEWS, one_thread, tiny_data, tiny_recognizer  # noqa: F401 - a fixture

from pipeline import precompute
from pipeline.dataset import BANK, DrawnViews, samples_of
from pipeline.errors import DataError, Interrupted
from pipeline.precompute import Bank, Quality, compute_parts, read_parts
from pipeline.views import View, draw_view, pixel_digest, read_view

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def small_parts():
    """Two videos a part, four clips a batch."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(precompute, "CLIPS_PER_PART", 2 * VIEWS.num_views)
        patched.setattr(precompute, "BATCH_SIZE", 4)
        yield


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"), num_train=7, num_val=0, num_test=0)
    return Bank(samples_of(manifest, frames, "train"), DrawnViews(frames, CLIP, VIEWS, seed=3, purpose=BANK))


def teacher():
    return tiny_recognizer(num_classes=2)


def compute(folder, bank, model=None, *, stop_after=None, num_workers=0):
    told = []

    def stop():
        if len(told) == stop_after:
            raise Interrupted(2)

    def advance(count, _note):
        told.append(count)

    parts = compute_parts(
        model or teacher(), bank, folder, device=CPU, num_workers=num_workers, stop=stop, advance=advance
    )
    assert sum(told) == len(bank.samples)
    return parts


def whole(parts):
    """Ids, logits, views and pixel digests of all parts, one after the other."""
    rows = list(read_parts(parts))
    arrays = [np.concatenate([getattr(r, n) for r in rows]) for n in ("logits_NVK", "views_NV7", "pixel_digest_NV")]
    return [name for part in rows for name in part.video_ids], *arrays


def contents(parts):
    return [path.read_bytes() for path in parts]


@pytest.fixture(scope="module")
def expected(bank, tmp_path_factory):
    return compute(tmp_path_factory.mktemp("parts"), bank)


@pytest.mark.parametrize("clips_per_part", [1, 2, 3, 6, 7, 20, 21, 22, 1000])
def test_parts_cover_every_video_once_in_order(bank, monkeypatch, clips_per_part):
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", clips_per_part)
    parts = bank.parts()
    assert [row for start, end in parts for row in range(start, end)] == list(range(7))
    assert all(end > start for start, end in parts)
    assert all((end - start) * VIEWS.num_views <= max(clips_per_part, VIEWS.num_views) for start, end in parts)


def test_logits_are_those_of_the_teacher_on_each_view(bank, expected):
    ids, logits_NVK, views_NV7, digests_NV = whole(expected)
    model, frames = teacher().eval(), bank.views.frames
    assert ids == [sample.video_id for sample in bank.samples]
    for row, name in enumerate(ids):
        for number in range(VIEWS.num_views):
            view = View(*views_NV7[row, number].tolist())
            policy = {"seed": 3, "purpose": BANK, "video_id": name, "number": number}
            assert view == draw_view(frames.shape(name), CLIP, VIEWS, **policy)
            clip_THWC = read_view(frames, name, view, CLIP)
            assert int(digests_NV[row, number]) == pixel_digest(clip_THWC.numpy())
            with torch.inference_mode():
                logits_K = model(clip_THWC[None])[0].numpy()
            assert logits_NVK[row, number] == pytest.approx(logits_K, abs=1e-4)
    assert logits_NVK.dtype == np.float32


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_stopped_after_any_part_it_ends_with_the_same_bytes(bank, expected, tmp_path, stop_after):
    with pytest.raises(Interrupted):
        compute(tmp_path, bank, stop_after=stop_after)
    done = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(done) == stop_after
    assert contents(compute(tmp_path, bank)) == contents(expected)
    assert all(path.stat().st_mtime_ns == time for path, time in done.items())  # none was worked out again


@pytest.mark.parametrize("damage", ["flipped", "torn"])
def test_a_damaged_part_is_worked_out_again(bank, expected, tmp_path, damage):
    part = compute(tmp_path, bank)[1]
    content = bytearray(part.read_bytes())
    content[-20] ^= 1
    part.write_bytes(content if damage == "flipped" else content[:-5])
    assert contents(compute(tmp_path, bank)) == contents(expected)


def test_data_loader_processes_change_nothing(bank, expected, tmp_path):
    assert contents(compute(tmp_path, bank, num_workers=2)) == contents(expected)


def test_the_size_of_parts_changes_the_work_and_not_the_rows(bank, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(precompute, "CLIPS_PER_PART", 1000)
    (part,) = compute(tmp_path, bank)
    ids, logits_NVK, views_NV7, digests_NV = whole([part])
    other_ids, other_logits_NVK, other_views_NV7, other_digests_NV = whole(expected)
    assert ids == other_ids
    assert np.allclose(logits_NVK, other_logits_NVK, atol=1e-5)
    assert np.array_equal(views_NV7, other_views_NV7)
    assert np.array_equal(digests_NV, other_digests_NV)


class Broken(torch.nn.Module):
    """A teacher that fails on bright clips."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, clip_BTHWC):
        bright_B = clip_BTHWC.float().mean(dim=(1, 2, 3, 4)) > 80
        return torch.where(bright_B[:, None], self.value, torch.zeros(len(bright_B), 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e5], ids=["nan", "inf", "too large for float16"])
def test_logits_that_cannot_be_kept_name_their_videos(bank, tmp_path, value):
    dark, bright = bank.samples[0], bank.samples[-1]
    with pytest.raises(DataError, match="not finite, or too large") as caught:
        compute(tmp_path, replace(bank, samples=[dark, bright]), Broken(value))
    assert caught.value.findings == (bright.video_id,)
    assert list(tmp_path.iterdir()) == []


# quality


def softmax(logits_NVK):
    exponentials = np.exp(logits_NVK.astype(np.float64))
    return exponentials / exponentials.sum(axis=2, keepdims=True)


def test_quality_is_counted_over_the_parts():
    rng = np.random.default_rng(0)
    logits_NVK = rng.normal(0, 4, (9, 5, 4)).astype(np.float32)
    labels_N = rng.integers(4, size=9)
    quality = Quality()
    for start, end in [(0, 4), (4, 5), (5, 9)]:
        quality.add(logits_NVK[start:end], labels_N[start:end])
    found = quality.attributes()
    packed_NVK = logits_NVK.astype(np.float16).astype(np.float32)
    best_NV = logits_NVK.argmax(axis=2)
    assert found["teacher_top1_on_views"] == pytest.approx((best_NV == labels_N[:, None]).mean(), abs=1e-6)
    assert found["codec"]["name"] == "float16"
    assert found["codec"]["top1_agreement"] == (best_NV == packed_NVK.argmax(axis=2)).mean()
    for temperature in (1, 4):
        p, q = softmax(logits_NVK / temperature), softmax(packed_NVK / temperature)
        kl_NV = (p * np.log(p / q)).sum(axis=2)
        assert found["codec"][f"mean_kl_at_{temperature}"] == pytest.approx(kl_NV.mean(), rel=0.01)
        assert found["codec"][f"max_kl_at_{temperature}"] == pytest.approx(kl_NV.max(), rel=0.01)


def test_what_float16_cannot_tell_apart_is_counted():
    quality = Quality()
    quality.add(np.array([[[10.0, 10.001]], [[1.0, 2.0]]], np.float32), np.array([1, 0]))
    found = quality.attributes()
    assert found["codec"]["top1_agreement"] == 0.5
    assert found["teacher_top1_on_views"] == 0.5
