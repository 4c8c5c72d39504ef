"""Scores are means over views, predictions are compared only where they fit, and every number is the one it says."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import CLASSES, CLIP, DEVICE, manifest_row, one_thread, tiny_data, tiny_recognizer  # noqa: F401 - a fixture

from pipeline.core.digest import has_valid_digest
from pipeline.core.errors import Interrupted, StaleArtifactError
from pipeline.data.dataset import samples_of
from pipeline.data.manifest import write_manifest
from pipeline.data.views import read_view, uniform_view
from pipeline.evaluate.compare import (
    aligned,
    check_predictions,
    compare,
    write_confusion,
)
from pipeline.evaluate.metrics import accuracy_interval, mcnemar_p, paired_interval
from pipeline.evaluate.metrics_file import Protocol, read_evaluation, write_evaluation, write_metrics
from pipeline.evaluate.score.predictions import Origin, Predictions, views_text
from pipeline.evaluate.score.scoring import score

SHAPE = (4, 16, 16)
PROTOCOL = Protocol(split="test", num_clips=3, num_crops=1, manifest="0123")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    rows = [manifest_row(f"v{number:02d}", number % 3, "test", SHAPE) for number in range(12)]
    rows += [manifest_row(f"t{number}", 0, "train", SHAPE) for number in range(3)]
    return write_manifest(tmp_path_factory.mktemp("manifest") / "manifest.csv", rows)


def predictions_for(manifest, seed):
    rows = manifest.rows_of("test")
    probs_NK = np.random.default_rng(seed).dirichlet(np.ones(3), len(rows))
    labels_N = np.array([manifest.class_index(row) for row in rows])
    return Predictions(tuple(row.video_id for row in rows), labels_N, probs_NK, manifest.class_names)


@pytest.fixture
def found(manifest):
    return {name: predictions_for(manifest, seed) for seed, name in enumerate(("teacher", "student", "baseline"))}


# do they fit?


@pytest.mark.parametrize(
    ("origin", "words"),
    [(Origin(manifest="another"), "manifest is another"), (Origin(views="2x3"), "views is 2x3, this run's 1x1")],
)
def test_predictions_of_another_origin_are_refused(manifest, found, origin, words):
    right = Origin("any model", manifest.digest, views_text(1, 1))
    check_predictions({"student": replace(found["student"], origin=right)}, manifest, views="1x1")
    with pytest.raises(StaleArtifactError, match=words):
        check_predictions({**found, "student": replace(found["student"], origin=origin)}, manifest, views="1x1")


def test_predictions_of_the_test_split_fit_in_any_order(manifest, found):
    check_predictions(found, manifest)
    turned = aligned(found["student"], found["student"].video_ids[::-1])
    check_predictions({**found, "student": turned}, manifest)


def part(found, index):
    return Predictions(
        tuple(found.video_ids[i] for i in index), found.labels_N[index], found.probs_NK[index], found.class_names
    )


WRONG = {
    "other classes": (lambda p: replace(p, class_names=("drink", "jump", "walk")), "walk"),
    "classes in another order": (lambda p: replace(p, class_names=CLASSES[::-1]), "classes ['wave'"),
    "missing videos": (lambda p: part(p, np.arange(9)), "3 test videos missing, 0 not of the test split"),
    "videos of train": (lambda p: replace(p, video_ids=("t0", *p.video_ids[1:])), "1 test videos missing, 1 not of"),
    "other labels": (lambda p: replace(p, labels_N=(p.labels_N + 1) % 3), "labels differ"),
}


@pytest.mark.parametrize(("change", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_does_not_fit_is_named(manifest, found, change, words):
    with pytest.raises(StaleArtifactError, match="do not fit the manifest") as caught:
        check_predictions({**found, "student": change(found["student"])}, manifest)
    (finding,) = caught.value.findings
    assert finding.startswith("student: ")
    assert words in finding


def test_everything_that_does_not_fit_is_named_at_once(manifest, found):
    changes = [change for change, _ in WRONG.values()][:3]
    wrong = {name: change(found[name]) for name, change in zip(found, changes, strict=True)}
    with pytest.raises(StaleArtifactError) as caught:
        check_predictions(wrong, manifest)
    assert [finding.partition(":")[0] for finding in caught.value.findings] == ["teacher", "student", "baseline"]


def test_alignment_moves_labels_and_probabilities_with_their_videos(found):
    student = found["student"]
    order = np.random.default_rng(0).permutation(12)
    turned = aligned(student, tuple(student.video_ids[i] for i in order))
    assert np.array_equal(turned.probs_NK, student.probs_NK[order])
    assert np.array_equal(turned.labels_N, student.labels_N[order])
    back = aligned(turned, student.video_ids)
    assert back.video_ids == student.video_ids
    assert np.array_equal(back.probs_NK, student.probs_NK)


# the numbers


def error_of(confidence_N, right_N):
    """The expected calibration error in 15 bins, video by video."""
    bin_N, gap_N = np.ceil(15 * confidence_N), right_N - confidence_N
    gaps = [abs(gap_N[bin_N == mine].mean()) for mine in bin_N]
    return np.mean(gaps)


def test_every_metric_is_what_it_says(found):
    metrics = compare(found, protocol=PROTOCOL, num_bootstraps=500, seed=3).model_dump()
    labels_N = found["teacher"].labels_N
    predicted = {name: p.probs_NK.argmax(axis=1) for name, p in found.items()}
    right = {name: predicted_N == labels_N for name, predicted_N in predicted.items()}
    for name in found:
        per_class = [right[name][labels_N == k].mean() for k in range(3)]
        assert metrics[name]["top1"] == pytest.approx(right[name].mean(), abs=1e-6)
        assert metrics[name]["mean_class_top1"] == pytest.approx(np.mean(per_class), abs=1e-6)
        assert metrics[name]["top5"] == 1.0  # three classes
        interval = accuracy_interval(right[name], num_bootstraps=500, seed=3)
        assert (metrics[name]["top1_low"], metrics[name]["top1_high"]) == interval
        assert metrics[name]["ece"] == pytest.approx(error_of(found[name].probs_NK.max(axis=1), right[name]))
    low, high = paired_interval(right["student"], right["baseline"], num_bootstraps=500, seed=3)
    gain = metrics["student_minus_baseline"]
    assert gain["top1"] == pytest.approx(right["student"].mean() - right["baseline"].mean(), abs=1e-6)
    assert (gain["top1_low"], gain["top1_high"]) == (low, high)
    assert low <= gain["top1"] <= high
    assert gain["mcnemar_p"] == mcnemar_p(right["student"], right["baseline"])
    for name in ("student", "baseline"):
        agreement = (predicted[name] == predicted["teacher"]).mean()
        assert metrics["agreement_with_teacher"][name] == pytest.approx(agreement)
        ratio_NK = np.log(found["teacher"].probs_NK / found[name].probs_NK)
        kl = (found["teacher"].probs_NK * ratio_NK).sum(axis=1).mean()
        assert metrics["kl_from_teacher"][name] == pytest.approx(kl, rel=1e-4)  # one is below the last digit
    assert metrics["num_test_videos"] == 12
    assert metrics["protocol"] == {"split": "test", "num_clips": 3, "num_crops": 1, "manifest": "0123"}


def test_top_5_counts_where_there_are_more_classes():
    names = tuple("abcdefgh")
    probs_NK = np.linspace(1, 0, 8)[None].repeat(8, axis=0)  # a is likeliest, h least
    equal = Predictions(names, np.arange(8), probs_NK, names)
    metrics = compare(
        dict.fromkeys(("teacher", "student", "baseline"), equal), protocol=PROTOCOL, num_bootstraps=100, seed=0
    )
    assert metrics.student.top1 == pytest.approx(1 / 8)
    assert metrics.student.top5 == pytest.approx(5 / 8)


def test_a_model_that_is_sure_of_what_the_teacher_excludes_has_a_finite_kl(found):
    """Six digits leave zeros: a zero counts as half of the last digit."""
    sure = replace(found["student"], probs_NK=np.eye(3)[[0] * 12])
    other = replace(found["student"], probs_NK=np.eye(3)[[1] * 12])
    models = {"teacher": other, "student": sure, "baseline": other}
    metrics = compare(models, protocol=PROTOCOL, num_bootstraps=100, seed=0)
    assert metrics.kl_from_teacher.student == pytest.approx(np.log(1 / 5e-7), rel=1e-4)
    assert metrics.kl_from_teacher.baseline == 0


def test_an_evaluation_is_json_with_six_digits_and_the_same_bytes(tmp_path, found):
    metrics = compare(found, protocol=PROTOCOL, num_bootstraps=500, seed=3)
    for name in ("one", "other"):
        write_evaluation(tmp_path / name, metrics)
    text = (tmp_path / "one").read_text()
    assert text == (tmp_path / "other").read_text()
    written = json.loads(text)
    assert has_valid_digest(written)
    assert written.keys() == metrics.model_dump(exclude_none=True).keys() | {"digest"}
    assert written["student"]["top1"] == round(metrics.student.top1, 6)
    assert written["num_test_videos"] == 12
    assert isinstance(written["num_test_videos"], int)
    assert read_evaluation(tmp_path / "one").student.top1 == written["student"]["top1"]


def test_what_dvc_shows_is_what_people_compare_rounded_for_them(tmp_path, found):
    metrics = compare(found, protocol=PROTOCOL, num_bootstraps=500, seed=3)
    write_metrics(tmp_path / "metrics.json", metrics)
    shown = json.loads((tmp_path / "metrics.json").read_text())
    assert list(shown) == ["top1", "gain", "gain_low", "gain_high"]
    assert list(shown["top1"]) == ["teacher", "student", "baseline"]
    assert shown["top1"]["student"] == round(metrics.student.top1, 3)
    assert shown["gain"] == round(metrics.student_minus_baseline.top1, 3)
    assert shown["gain_low"] <= shown["gain"] <= shown["gain_high"]
    with pytest.raises(StaleArtifactError, match="not the evaluation") as caught:
        read_evaluation(tmp_path / "metrics.json")
    assert "results/evaluation.json" in caught.value.remedy


def test_confusion_has_a_row_for_every_video(tmp_path, found):
    path = tmp_path / "confusion" / "student.csv"
    write_confusion(path, found["student"])
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = found["student"].class_names
    assert [row["actual"] for row in rows] == [names[label] for label in found["student"].labels_N]
    assert [row["predicted"] for row in rows] == [names[label] for label in found["student"].predicted_N]


# scoring


@pytest.fixture(scope="module")
def scored_data(tmp_path_factory):
    manifest, frames = tiny_data(tmp_path_factory.mktemp("data"), num_train=0, num_val=0, num_test=5, num_classes=3)
    return manifest, frames, samples_of(manifest, frames, "test")


def score_tiny(data, *, num_clips=3, num_crops=1, batch_size=4, stop=lambda: None, told=None):
    manifest, frames, samples = data
    return score(
        tiny_recognizer(),
        frames,
        samples,
        class_names=manifest.class_names,
        num_clips=num_clips,
        num_crops=num_crops,
        batch_size=batch_size,
        device=DEVICE,
        stop=stop,
        advance=lambda count, _note: told.append(count) if told is not None else None,
    )


@pytest.mark.parametrize("num_crops", [1, 3])
def test_probabilities_are_the_mean_over_the_views(scored_data, num_crops):
    manifest, frames, samples = scored_data
    told = []
    found = score_tiny(scored_data, num_crops=num_crops, told=told)
    model = tiny_recognizer().eval()
    for index, sample in enumerate(samples):
        shape = frames.shape(sample.video_id)
        views = [
            uniform_view(shape, CLIP, index=index, num_clips=3, crop=crop, num_crops=num_crops)
            for index in range(3)
            for crop in range(num_crops)
        ]
        clips_BTHWC = torch.stack([read_view(frames, sample.video_id, view, CLIP) for view in views])
        with torch.inference_mode():
            logits_BK = model(clips_BTHWC).double().numpy()
        exponentials = np.exp(logits_BK)
        expected_K = (exponentials / exponentials.sum(axis=1, keepdims=True)).mean(axis=0)
        assert found.probs_NK[index] == pytest.approx(expected_K, abs=1e-5)
    assert found.video_ids == tuple(sample.video_id for sample in samples)
    assert found.labels_N.tolist() == [sample.label for sample in samples]
    assert found.class_names == manifest.class_names
    assert sum(told) == 15 * num_crops


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_the_batch_size_does_not_matter(scored_data, batch_size):
    found = score_tiny(scored_data, batch_size=batch_size)
    assert np.allclose(found.probs_NK, score_tiny(scored_data).probs_NK, atol=1e-5)


def test_scoring_stops_between_two_batches(scored_data):
    told = []

    def stop():
        if len(told) == 2:
            raise Interrupted(15)

    with pytest.raises(Interrupted):
        score_tiny(scored_data, stop=stop, told=told)
    assert told == [4, 4]
