"""Numbers that ruin other numbers: NaN, infinity, constants, one of something, none of something, extremes."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import CLASSES, CLIP, VIEWS, distillation_params, one_thread, tiny_recognizer  # noqa: F401
from number_runs import SPLITS, constant, curve, make_data, noise, precompute, score, train, write_params
from paths import ROOT
from target_stores import make_store, make_teacher, write

from benchmarks.in_memory import enhance_frames
from pipeline.core.digest import digest_json
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.params import load_params
from pipeline.data.listing import ListedVideo
from pipeline.data.manifest import read_manifest
from pipeline.distill.store.codecs import TopK, kl_divergence
from pipeline.distill.store.store import SoftTargetStore
from pipeline.distill.student.cached_targets import load_targets
from pipeline.distill.student.loss import distillation_loss
from pipeline.distill.student.soft_losses import SOFT_LOSSES
from pipeline.enhance.file import CLASSICAL, classical_from_params, load_enhancer, save_enhancer
from pipeline.enhance.learned import NETWORKS, LearnedEnhancer
from pipeline.evaluate.compare import LEAST_PROBABILITY, compare
from pipeline.evaluate.metrics import NUM_BINS, expected_calibration_error, reliability
from pipeline.evaluate.metrics_file import Protocol, write_evaluation
from pipeline.evaluate.score.predictions import Predictions, read_predictions, write_predictions
from pipeline.evaluate.tables import make_tables, write_light
from pipeline.models.recognizer import load_model, save_model
from pipeline.tools.study.results import estimate
from pipeline.train.state import best_epoch
from pipeline.videos.splits import complete_splits

NOT_FINITE = pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """An empty folder that is the current one, with parameters."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    write_params()
    return tmp_path


def spoilt_model(path, value):
    """A model file with one weight of that value; returns the tensor's name."""
    recognizer = tiny_recognizer()
    name = next(name for name, _ in reversed(list(recognizer.named_parameters())) if name.endswith("weight"))
    with torch.no_grad():
        recognizer.get_parameter(name).view(-1)[5] = value
    save_model(path, recognizer, class_names=CLASSES, trained_on={})
    return name


def overflowing_model(path):
    """A model file whose weights are finite, but not its logits."""
    recognizer = tiny_recognizer()
    with torch.no_grad():
        for parameter in recognizer.parameters():
            parameter.mul_(1e10)
    save_model(path, recognizer, class_names=CLASSES, trained_on={})


# values that are not finite


OVERFLOWING = pytest.mark.fault("Numbers", "logits that are not finite, from a teacher or a student", "E")


@OVERFLOWING
def test_a_teacher_whose_logits_overflow_is_refused_with_every_video_and_view(project):
    make_data()
    overflowing_model(project / "teacher.safetensors")
    with pytest.raises(DataError, match="not finite on 5 videos") as caught:
        precompute()
    assert caught.value.findings == tuple(f"teacher, train_{index}: view 0, 1, 2" for index in range(5))
    assert not Path("store.zarr").exists()


@OVERFLOWING
@pytest.mark.parametrize("name", ["teacher", "student"])
def test_a_model_whose_logits_overflow_has_no_predictions(project, name):
    make_data()
    overflowing_model(project / f"{name}.safetensors")
    with pytest.raises(DataError, match="the model's logits are not finite on 3 videos") as caught:
        score(name)
    params = load_params(Path("params.yaml")).score
    views = ", ".join(map(str, range(params.num_clips * params.num_crops)))
    assert caught.value.findings == tuple(f"test_{index}: view {views}" for index in range(3))
    assert not Path(f"{name}_predictions.csv").exists()


@OVERFLOWING
def test_predict_names_the_video_and_its_frames(project, call):
    from pipeline.videos.reader import write_video

    overflowing_model(project / "student.safetensors")
    write_video(project / "a.mp4", noise("a"), fps=10)
    code, out, err = call("predict", "a.mp4", "--model", "student.safetensors", "--device", "cpu")
    assert (code, out) == (3, "")
    assert "a.mp4: the model's logits are not finite on frames 0 to 5" in err


@pytest.mark.fault("Numbers", "NaN and infinity in weights of a model file", "E")
@NOT_FINITE
@pytest.mark.parametrize("command", ["precompute-soft-targets", "score-student", "evaluate-model", "predict", "export"])
def test_weights_that_are_not_finite_are_refused_by_name(project, call, command, value):
    make_data()
    name = spoilt_model(project / "m.safetensors", value)
    manifest, dark = ["--manifest", "manifest.csv"], ["--frames", "dark"]
    code, _, err = call(
        command,
        *{
            "precompute-soft-targets": ["--teacher", "m.safetensors", "--frames", "enhanced", *manifest, "--out", "o"],
            "score-student": ["--model", "m.safetensors", *dark, *manifest, "--out", "o"],
            "evaluate-model": ["--model", "m.safetensors", *dark, *manifest, "--split", "test"],
            "predict": [project / "a.mp4", "--model", "m.safetensors"],
            "export": ["m.safetensors", "--out", "o.pt2", "--format", "torch"],
        }[command],
    )
    assert code == 5
    assert "m.safetensors: has values that are not finite in 1 tensors" in err
    assert f"- {name}\n" in err
    assert not Path("o").exists()
    assert not Path("o.pt2").exists()


@pytest.mark.fault("Numbers", "NaN and infinity in weights of a model file", "E")
@NOT_FINITE
@pytest.mark.parametrize("name", NETWORKS)
def test_an_enhancers_weights_that_are_not_finite_are_refused_by_name(tmp_path, name, value):
    network = NETWORKS[name]()
    tensor, parameter = next(iter(network.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = value
    save_enhancer(tmp_path / "e.safetensors", LearnedEnhancer(name, network, 1, "float32"), fitted_on={})
    with pytest.raises(StaleArtifactError, match=f"{tensor} has values that are not finite"):
        load_enhancer(tmp_path / "e.safetensors")


@pytest.mark.fault("Numbers", "NaN and infinity in a soft-target store, with right digests", "E")
@NOT_FINITE
@pytest.mark.parametrize(
    ("codec", "array"), [("float16", "logits"), ("topk", "topk_logits"), ("topk", "rest_logsumexp")]
)
def test_a_store_with_a_logit_that_is_not_finite_trains_nobody(tmp_path, codec, array, value):
    made = make_store(tmp_path / "made", codec=codec)
    made.rows.arrays[array][2, 1] = value
    store = SoftTargetStore(made.path)
    spoilt = tmp_path / "spoilt.zarr"
    attributes = {name: store.attributes[name] for name in made.attributes}
    write(spoilt, made.rows, store.codec, attributes)
    with pytest.raises(StaleArtifactError, match="1 of the 7 rows") as caught:
        load_targets(
            SoftTargetStore(spoilt),
            made.rows.video_ids,
            memory_bytes=2**20,
            folder=tmp_path,
            teachers="mean",
            seed=0,
        )
    assert caught.value.findings == (f"{made.rows.video_ids[2]} has logits that are not finite: never written",)


@pytest.mark.fault("Numbers", "a validation loss that is not finite", "=")
@NOT_FINITE
def test_an_epoch_whose_val_loss_is_not_finite_is_never_the_best(value):
    good = [{"val_top1": top1, "val_loss": loss} for top1, loss in ((0.2, 3.0), (0.5, 2.0), (0.5, 1.0))]
    bad = [{"val_top1": top1, "val_loss": value} for top1 in (0.5, 1.0)]
    for order in itertools.permutations([*good, *bad]):
        assert order[best_epoch(list(order))] == good[2]


# pixels that are all the same


CONSTANT = pytest.mark.parametrize("level", [0, 128, 255])


@pytest.mark.fault("Numbers", "all-black, all-white and grey videos", "=")
@CONSTANT
@pytest.mark.parametrize("statistics", ["video", "frame"])
@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_enhancers_keep_constant_videos_constant(name, statistics, level):
    params = load_params(ROOT / "params.yaml").fit_enhancer.model_copy(update={"statistics": statistics})
    enhanced = enhance_frames(classical_from_params(name, params), np.full((5, 20, 24, 3), level, np.uint8))
    assert np.ptp(enhanced) == 0
    if name != "clahe":  # which clips the one level's count and gives the rest to others
        assert enhanced.min() >= level
        assert level > 0 or enhanced.max() == 0


@pytest.mark.fault("Numbers", "all-black, all-white and grey videos", "=")
@CONSTANT
def test_the_chain_goes_on_over_constant_videos_and_says_that_nothing_was_learnt(project, level):
    make_data(pixels=constant(level))
    train("teacher")
    precompute()
    train("student")
    score("teacher")
    score("student")
    for name in ("teacher", "student"):
        assert np.isfinite(list(curve(name).values())).all()
        found = read_predictions(Path(f"{name}_predictions.csv"))
        assert (found.probs_NK == found.probs_NK[0]).all()  # one answer to what looks the same
        assert found.correct_N.sum() == 1
    assert SoftTargetStore("store.zarr").read_shard(0).arrays["logits"].std(axis=(0, 1, 2)).max() < 1e-2


# few of something


@pytest.mark.fault("Numbers", "one class", "E")
def test_lists_of_one_class_are_refused_before_anything_is_read():
    videos = [ListedVideo(f"{i}.mp4", 0, "drink", str(i), None, f"list:{i}") for i in range(9)]
    with pytest.raises(DataError, match="all 9 videos are of one class, drink"):
        complete_splits(videos, val_share=0.2, test_share=0.2, seed=0)


@pytest.mark.fault("Numbers", "one class", "E")
@pytest.mark.parametrize("name", ["teacher", "student", "baseline"])
def test_a_manifest_of_one_class_trains_nobody(project, name):
    make_data(dict.fromkeys(SPLITS, (0, 0, 0)))
    with pytest.raises(DataError, match="all videos are of one class, drink"):
        train(name)


ONE_PIXEL, FOUR_PIXELS = CLIP, CLIP.model_copy(update={"size": 32})  # that the network's last layers have of a clip
SINGLE = {
    "a batch of one": (SPLITS, {"options": {"batch_size": 1}}),
    "a last batch of one": ({**SPLITS, "train": (0, 1, 2)}, {"options": {"batch_size": 2}}),
    "one video in train": ({**SPLITS, "train": (0,)}, {}),
}
FEW = {
    "two classes": (dict.fromkeys(SPLITS, (0, 1, 0, 1)), {}),
    "a class that val has not": ({**SPLITS, "val": (0, 1)}, {}),
    "a class that train has not": ({**SPLITS, "train": (0, 1, 0, 1)}, {"options": {"class_weights": "balanced"}}),
    "one video in val and one in test": ({**SPLITS, "val": (1,), "test": (2,)}, {}),
    "one view": (SPLITS, {"views": VIEWS.model_copy(update={"num_views": 1})}),
    **{name: (splits, {**params, "clip": FOUR_PIXELS}) for name, (splits, params) in SINGLE.items()},
}


@pytest.mark.fault("Numbers", "two classes, a class that a split lacks, splits, batches and views of one", "=")
@pytest.mark.parametrize("case", FEW)
def test_few_of_something_is_enough(project, case):
    splits, params = FEW[case]
    make_data(splits)
    write_params(**params)
    train("teacher")
    precompute()
    train("student")
    train("baseline")
    score("teacher")
    score("student")
    for name in ("teacher", "student", "baseline"):
        assert np.isfinite(list(curve(name).values())).all()
        assert 0 <= curve(name)["val_top1"] <= 1
    found = read_predictions(Path("student_predictions.csv"))
    assert found.probs_NK.sum(axis=1) == pytest.approx(1, abs=1e-5)
    evaluate(read_manifest(Path("manifest.csv")), teacher=found, student=found, baseline=found)


@pytest.mark.fault("Numbers", "a batch of one number for each channel of a batch normalisation", "E")
@pytest.mark.parametrize("case", SINGLE)
def test_batch_statistics_of_one_number_are_refused_before_the_first_step(project, case):
    splits, params = SINGLE[case]
    make_data(splits)
    write_params(**params, clip=ONE_PIXEL)
    with pytest.raises(ParamsError, match="does not train on batches of 1 clips"):
        train("baseline")


@pytest.mark.fault("Numbers", "a batch of one clip where the loss compares clips", "E")
def test_dist_is_not_trained_on_single_clips(project):
    make_data()
    write_params(clip=FOUR_PIXELS)
    train("teacher")
    precompute()
    write_params(options={"batch_size": 1}, clip=FOUR_PIXELS, soft_loss="dist")
    with pytest.raises(ParamsError, match="leave a clip alone"):
        train("student")


# losses at their ends


FACTORS = {"soft": 1.0, "sharp": 1e2, "huge": 1e4}


def loss_and_gradient(student_BK, teacher_BK, labels_B, **options):
    student_BK = student_BK.clone().requires_grad_()
    loss = distillation_loss(student_BK, labels_B, teacher_BK, soft_weight=1.0, **options)
    loss.backward()
    return loss.item(), student_BK.grad


@pytest.mark.fault("Numbers", "temperatures of 0.001 and 1000, logits up to ±10,000, all soft losses", "=")
@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("name", SOFT_LOSSES)
@pytest.mark.parametrize("standardize", [False, True])
def test_losses_in_float32_are_those_in_float64(name, temperature, standardize, scale, cases):
    options = {"soft_loss": name, "temperature": temperature, "options": distillation_params(standardize=standardize)}
    seeds = scale(2, 60)
    drawn = list(itertools.product(range(seeds), FACTORS.values(), (2, 11, 1000)))
    for seed, factor, num_classes in drawn:
        generator = torch.Generator().manual_seed(seed)
        student_BK, teacher_BK = (factor * (2 * torch.rand(8, num_classes, generator=generator) - 1) for _ in range(2))
        labels_B = torch.randint(num_classes, (8,), generator=generator)
        loss, gradient_BK = loss_and_gradient(student_BK, teacher_BK, labels_B, **options)
        wanted, wanted_BK = loss_and_gradient(student_BK.double(), teacher_BK.double(), labels_B, **options)
        assert math.isfinite(loss)
        assert torch.isfinite(gradient_BK).all()
        if num_classes == 2 and (standardize or name == "dist"):  # they see which logit is larger: no gradient
            continue
        # T² times a difference of numbers near 1: docs/losses.md
        parts = 9 if name == "dkd" else 1  # alpha + beta
        assert loss == pytest.approx(wanted, rel=1e-3, abs=2e-7 * parts * max(1, temperature**2))
        error = float((gradient_BK - wanted_BK).norm())
        assert error <= 2e-3 * float(wanted_BK.norm()) + 1e-9
    cases(len(drawn))


@pytest.mark.fault("Numbers", "half-precision logits up to ±60,000 at temperatures of 0.001 and 1000", "=")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1e-3, 1e3])
@pytest.mark.parametrize("name", SOFT_LOSSES)
def test_losses_of_half_precision_logits_are_finite(name, temperature, dtype):
    generator = torch.Generator().manual_seed(0)
    student_BK, teacher_BK = ((6e4 * torch.randn(8, 11, generator=generator).clamp(-1, 1)) for _ in range(2))
    options = {"soft_loss": name, "temperature": temperature, "options": distillation_params()}
    loss, gradient_BK = loss_and_gradient(student_BK.to(dtype), teacher_BK, torch.arange(8), **options)
    assert math.isfinite(loss)
    if name != "mse":  # whose own gradient is beyond float16: the scaler's affair
        assert torch.isfinite(gradient_BK).all()


@pytest.mark.fault("Numbers", "soft_weight 1: labels do not matter to the weights", "=")
@pytest.mark.parametrize("soft_loss", ["kl", "dist", "wttm", "mse"])
def test_with_soft_weight_1_other_labels_give_the_same_student(project, soft_loss):
    students = []
    for turn in range(2):
        labels = tuple((label + turn) % 3 for label in SPLITS["train"])
        make_data({**SPLITS, "train": labels})
        write_params(soft_weight=1.0, soft_loss=soft_loss)
        make_teacher(project / "teacher.safetensors")
        precompute()
        train("student")
        students.append(load_model(Path("student.safetensors")))
        for path in ("store.zarr", "dark", "enhanced"):
            (project / path).rename(project / f"{path}_{turn}")
    first, second = (model.recognizer.state_dict() for model in students)
    assert students[0].trained_on["digests"] != students[1].trained_on["digests"]
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.fault("Numbers", "soft_weight 0: soft targets do not matter to the weights", "=")
def test_with_soft_weight_0_other_teachers_give_the_baseline(project):
    make_data()
    write_params(soft_weight=0.0)
    train("baseline")
    wanted = load_model(Path("baseline.safetensors")).recognizer.state_dict()
    for seed in range(2):
        make_teacher(project / "teacher.safetensors", seed=seed)
        precompute()
        train("student")
        (project / "store.zarr").rename(project / f"store_{seed}.zarr")
        found = load_model(Path("student.safetensors")).recognizer.state_dict()
        assert [name for name in wanted if not torch.equal(wanted[name], found[name])] == []


# metrics at their ends


def one_hot(manifest, predicted, *, split="test"):
    """Predictions that are sure of these classes."""
    rows = manifest.rows_of(split)
    labels_N = np.array([manifest.class_index(row) for row in rows])
    probs_NK = np.eye(len(manifest.class_names))[np.asarray(predicted(labels_N))]
    return Predictions(tuple(row.video_id for row in rows), labels_N, probs_NK, manifest.class_names)


def evaluate(manifest, **predictions):
    """All metrics, which are finite, as the file has them."""
    protocol = Protocol(split="test", num_clips=1, num_crops=1, manifest=manifest.digest)
    metrics = compare(predictions, protocol=protocol, num_bootstraps=100, seed=0)
    rows = manifest.rows_of("test")
    make_tables(predictions, rows, {row.video_id: 0.0 for row in rows})
    write_evaluation(Path("evaluation.json"), metrics)

    def refuse(constant):
        raise AssertionError(f"{constant} in evaluation.json")

    return json.loads(Path("evaluation.json").read_text(), parse_constant=refuse)


ONE_SIDED = "all right, all wrong, no disagreement, one test video, probabilities of exactly 0 and 1"


@pytest.mark.fault("Numbers", ONE_SIDED, "=")
@pytest.mark.parametrize("labels", [(0,), (2, 2, 2), (0, 1, 2, 0, 1, 2)])
def test_certain_and_one_sided_predictions_have_finite_metrics(project, labels):
    manifest = make_data({**SPLITS, "test": labels})
    right, wrong = one_hot(manifest, lambda labels: labels), one_hot(manifest, lambda labels: (labels + 1) % 3)
    found = evaluate(manifest, teacher=wrong, student=right, baseline=wrong)
    for name, top1 in (("teacher", 0), ("student", 1), ("baseline", 0)):
        assert [found[name][key] for key in ("top1", "top1_low", "top1_high", "mean_class_top1")] == [top1] * 4
        assert found[name]["ece"] == 1 - top1
        assert found[name]["top5"] == 1
    gain = found["student_minus_baseline"]
    assert [gain[key] for key in ("top1", "top1_low", "top1_high")] == [1, 1, 1]
    assert gain["mcnemar_p"] == pytest.approx(min(1, 2 * 0.5 ** len(labels)))
    assert found["kl_from_teacher"]["baseline"] == 0
    # certain of another class: ln of what counts as nothing
    assert found["kl_from_teacher"]["student"] == pytest.approx(-math.log(LEAST_PROBABILITY), rel=1e-3)
    same = evaluate(manifest, teacher=right, student=right, baseline=right)["student_minus_baseline"]
    assert same == {"top1": 0, "top1_low": 0, "top1_high": 0, "mcnemar_p": 1}


@pytest.mark.fault("Numbers", "ties in predictions", "=")
def test_of_equal_probabilities_the_first_class_counts_in_every_number(project):
    manifest = make_data()
    even = one_hot(manifest, lambda labels: labels)
    even = replace(even, probs_NK=np.full((3, 3), 1 / 3))
    write_predictions(Path("even.csv"), even)
    back = read_predictions(Path("even.csv"))
    assert back.predicted_N.tolist() == even.predicted_N.tolist() == [0, 0, 0]
    found = evaluate(manifest, teacher=back, student=back, baseline=back)
    assert found["student"]["top1"] == found["student"]["mean_class_top1"] == pytest.approx(1 / 3)
    assert found["student"]["ece"] == pytest.approx(0, abs=1e-5)
    assert found["agreement_with_teacher"]["student"] == 1


@pytest.mark.fault("Numbers", "probabilities that are not finite, negative, or do not sum to 1, in a table", "E")
@pytest.mark.parametrize("probs", ["nan,0.5,0.5", "inf,0,0", "-0.1,0.6,0.5", "0,0,0", "1,1,1", "0.5,0.4,0.09"])
def test_a_row_that_is_no_distribution_is_refused_with_its_line(tmp_path, probs):
    header = "video_id,class_name,predicted,p:x,p:y,p:z,model,manifest,views,digest"
    rows = ("a,x,x,1,0,0,,,", f"b,x,x,{probs},,,")
    lines = [header, *(f"{row},{digest_json(row.split(','))}" for row in rows)]
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(StaleArtifactError, match=r"line 3: (p:|its probabilities)"):
        read_predictions(tmp_path / "p.csv")


@pytest.mark.fault("Numbers", "a thousand classes", "=")
def test_rounded_rows_of_a_thousand_classes_are_distributions(tmp_path, scale, cases):
    names = tuple(f"c{number}" for number in range(1000))
    rng = np.random.default_rng(0)
    num_rows = scale(20, 1000)
    concentration = np.geomspace(1e-3, 1e3, num_rows)
    probs_NK = np.stack([rng.dirichlet(np.full(1000, value)) for value in concentration])
    probs_NK[0] = 0.001 + 4.9e-7  # all rounded down
    probs_NK[0, 0] += 1 - probs_NK[0].sum()
    ids = tuple(f"v{number}" for number in range(num_rows))
    write_predictions(tmp_path / "p.csv", Predictions(ids, np.zeros(num_rows, np.int64), probs_NK, names))
    assert read_predictions(tmp_path / "p.csv").probs_NK == pytest.approx(probs_NK, abs=1e-6)
    cases(num_rows)


@pytest.mark.fault("Numbers", "a thousand classes", "=")
@pytest.mark.parametrize("k", [1, 10, 999])
@pytest.mark.parametrize("kind", ["spread", "equal", "one above all", "huge"])
def test_top_k_of_a_thousand_classes(k, kind):
    logits_NK = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32)
    if kind == "equal":
        logits_NK[:] = 3.0
    if kind == "one above all":
        logits_NK[:, 7] = 6e4
    if kind == "huge":
        logits_NK = logits_NK.clip(-1, 1) * 6e4
    codec = TopK(1000, k)
    back_NK = codec.unpack(codec.pack(logits_NK))
    assert np.isfinite(back_NK).all()
    assert (back_NK.argmax(axis=1) == codec.pack(logits_NK)["topk_classes"][:, 0]).all()
    if kind in ("equal", "one above all"):
        assert kl_divergence(logits_NK, back_NK).max() < 1e-3


@pytest.mark.fault("Numbers", "top-k of as many classes as there are", "E")
@pytest.mark.parametrize("k", [3, 4, 1000])
def test_top_k_of_all_classes_is_refused_before_the_teacher_is_asked(project, call, k):
    make_data()
    make_teacher(project / "teacher.safetensors")
    values = load_params(Path("params.yaml")).precompute_soft_targets.model_dump()
    write_params(precompute_soft_targets={**values, "codec": "topk", "top_k": k})
    with pytest.raises(ParamsError, match=f"top_k must be in 1 … 2 for 3 classes, not {k}"):
        precompute()


@pytest.mark.fault("Numbers", "seeds that all end the same", "=")
@pytest.mark.parametrize("num_seeds", [2, 3, 20])
@pytest.mark.parametrize("value", [0.0, 1.0, 1 / 3, 0.1])
def test_equal_seeds_have_an_interval_of_no_width(num_seeds, value):
    found = estimate([value] * num_seeds)
    assert found.mean == pytest.approx(value)
    assert found.half == pytest.approx(0, abs=1e-12)


@pytest.mark.fault("Numbers", "confidences of exactly 0, of 1, and on the edges of bins", "=")
def test_every_confidence_has_its_bin():
    edges_N = np.linspace(0, 1, NUM_BINS + 1)
    confidence_N = np.concatenate([edges_N, np.nextafter(edges_N, 2)[:-1]])
    bins = reliability(confidence_N, np.ones(len(confidence_N), bool), num_bins=NUM_BINS)
    assert sum(found["num_videos"] for found in bins) == len(confidence_N)
    for found in bins:
        assert found["low"] < found["high"]
        assert found["low"] <= found["confidence"] <= found["high"]
    assert 0 <= expected_calibration_error(bins) <= 1


# a teacher that is always wrong


@pytest.mark.fault("Numbers", "a teacher that is always wrong", "=")
def test_a_teacher_that_is_always_wrong_is_reported_so_and_its_student_trains(project, call):
    manifest = make_data()
    made = make_store(project / "made", num_train=1)  # its attributes, for rows of our own
    make_teacher(project / "teacher.safetensors")
    precompute()
    store = SoftTargetStore("store.zarr")
    rows = store.read_shard(0)
    labels = [manifest.class_index(manifest.by_id[video_id]) for video_id in rows.video_ids]
    rows.arrays["logits"][:] = -10.0
    for row, label in enumerate(labels):
        rows.arrays["logits"][row, ..., (label + 1) % 3] = 10.0
    attributes = {name: store.attributes[name] for name in made.attributes}
    attributes["teachers"] = [{**store.attributes["teachers"][0], "top1_on_views": 0.0}]
    write(Path("wrong.zarr"), rows, store.codec, attributes)
    for soft_loss in SOFT_LOSSES:
        write_params(soft_loss=soft_loss, soft_weight=0.9)
        train("student", soft_targets="wrong.zarr")
        assert np.isfinite(list(curve("student").values())).all()
    score("student")
    wrong = one_hot(manifest, lambda labels: (labels + 1) % 3)
    for name, found in (("teacher", wrong), ("baseline", wrong)):
        write_predictions(Path(f"{name}_predictions.csv"), found)
    write_light(Path("light.csv"), {row.video_id: 0.0 for row in manifest.rows_of("test")})
    files = {"--light": "light.csv", "--evaluation": "e.json", "--metrics": "m.json"}
    tables = {**files, "--confusion": "confusion", "--tables": "tables"}
    models = {f"--{name}": f"{name}_predictions.csv" for name in ("teacher", "student", "baseline")}
    options = itertools.chain(*{"--manifest": "manifest.csv", **tables, **models}.items())
    code, out, _ = call("evaluate", *options)
    assert code == 0
    assert "teacher (enhanced)" in out
    assert json.loads(Path("m.json").read_text())["top1"]["teacher"] == 0.0
    with Path("tables/per_class.csv").open() as file:
        assert [row["teacher"] for row in csv.DictReader(file)] == ["0.0"] * 3
