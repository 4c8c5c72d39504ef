"""The mean of the splits is that of numbers that belong together, and of nothing else."""

from __future__ import annotations

import json

import pytest
from report_runs import GAIN, metrics_values

from pipeline.core.errors import StaleArtifactError
from pipeline.tools.study.split_means import mean_of_splits

TOP1 = {"teacher": (0.9, 0.8, 0.7), "student": (0.5, 0.6, 0.7), "baseline": (0.4, 0.4, 0.7)}


def metrics_of(number):
    """What `evaluate` writes, of split 0, 1 or 2."""
    single = {"top1_low": 0.0, "top1_high": 1.0, "top5": 0.95, "mean_class_top1": 0.3 + number / 10, "ece": 0.1}
    gain = TOP1["student"][number] - TOP1["baseline"][number]
    return metrics_values(
        gain={**GAIN, "top1": gain},
        manifest=f"digest {number}",
        **{name: {"top1": values[number], **single} for name, values in TOP1.items()},
    )


@pytest.fixture
def write(tmp_path):
    def write_metrics(*metrics):
        paths = [tmp_path / f"split{number}.json" for number in range(1, len(metrics) + 1)]
        for path, found in zip(paths, metrics, strict=True):
            path.write_text(json.dumps(found))
        return paths

    return write_metrics


@pytest.fixture
def three(write):
    return write(*map(metrics_of, range(3)))


def test_each_number_has_its_splits_and_their_mean(three):
    found = mean_of_splits(three)
    for name, values in TOP1.items():
        assert found[name]["top1"] == {"mean": pytest.approx(sum(values) / 3, abs=1e-6), "splits": list(values)}
        assert found[name]["mean_class_top1"]["mean"] == pytest.approx(0.4)
    assert found["student_minus_baseline"]["top1"]["mean"] == pytest.approx(0.1)


def test_neither_an_interval_nor_a_p_value_has_a_mean(three):
    found = mean_of_splits(three)
    assert found["student"].keys() == {"top1", "top5", "mean_class_top1", "ece"}
    assert found["student_minus_baseline"].keys() == {"top1"}


def test_the_same_split_twice_is_refused(three):
    with pytest.raises(StaleArtifactError, match="have no mean") as caught:
        mean_of_splits([*three, three[1]])
    (finding,) = caught.value.findings
    assert finding == f"{three[1]} and {three[1]} are of the same split: their manifests are equal"


def test_splits_that_were_scored_in_different_ways_are_refused(write):
    other = metrics_of(1)
    other["protocol"]["num_crops"] = 2
    paths = write(metrics_of(0), other, metrics_of(2))
    with pytest.raises(StaleArtifactError) as caught:
        mean_of_splits(paths)
    (finding,) = caught.value.findings
    assert finding == (
        f"{paths[1]} was made with split test, num_clips 3, num_crops 2, "
        f"{paths[0]} with split test, num_clips 3, num_crops 1"
    )


def without(*names):
    found = metrics_of(0)
    inner = found
    for name in names[:-1]:
        inner = inner[name]
    del inner[names[-1]]
    return found


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "teacher: Field required"),
        ([], "valid dictionary"),
        (without("baseline", "ece"), "baseline.ece: Field required"),
        (without("protocol"), "protocol: Field required"),
        (without("protocol", "manifest"), "protocol.manifest: Field required"),
        ({**metrics_of(0), "student_minus_baseline": {**GAIN, "top1": "much"}}, "student_minus_baseline.top1: Input"),
        ({**metrics_of(0), "digest": "0" * 32}, "it does not have the digest that was written with it"),
    ],
)
def test_what_is_no_metrics_of_three_models_is_refused(write, wrong, words):
    paths = write(metrics_of(1), wrong)
    with pytest.raises(StaleArtifactError, match="not the evaluation that `evaluate` writes") as caught:
        mean_of_splits(paths)
    assert str(paths[1]) in str(caught.value)
    assert words in str(caught.value)


# the command


def test_the_command_prints_a_table(call, three):
    code, out, _ = call("mean-splits", *three)
    assert code == 0
    (line,) = [line for line in out.splitlines() if "student − baseline" in line]
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "student − baseline top-1", "+10.0", "+10.0", "+20.0", "+0.0",
    ]  # fmt: skip


def test_the_command_prints_json(call, three):
    code, out, err = call("mean-splits", *three, "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    assert printed["files"] == [str(path) for path in three]
    assert printed["student"]["top1"] == {"mean": 0.6, "splits": [0.5, 0.6, 0.7]}


def test_one_split_has_no_mean(call, three):
    code, out, err = call("mean-splits", three[0])
    assert (code, out) == (2, "")
    assert "the evaluation.json of each split" in err
