"""A report shows the study that lies beside it: its first contrast is the headline, and every run has a mark."""

from __future__ import annotations

import json

import pytest
from report_runs import make_run, paths_in

from pipeline.core.errors import StaleArtifactError
from pipeline.core.params import load_params
from pipeline.data.manifest import read_manifest
from pipeline.report.page import make_report

RUNS = [[0, None, 0.05], [1, None, 0.01], [2, None, 0.06]]
CONTRAST = {
    "name": "total",
    "first": "light",
    "second": "light.baseline",
    "on": "test",
    "mean": 0.04,
    "half_over_seeds": 0.066,
    "low": 0.012,
    "high": 0.071,
    "sd": 0.026,
    "better": 1.0,
    "better_low": 1.0,
    "better_high": 1.0,
    "num_above": 3,
    "num_runs": 3,
    "num_missing": 0,
    "runs": RUNS,
}


@pytest.fixture
def paths(tmp_path):
    make_run(tmp_path)
    return paths_in(tmp_path)


def put_study(paths, *contrasts, manifest=None, params=None, place=0):
    """A study.json; of the run's videos where no other manifest is named."""
    path, manifest = paths.studies[place], manifest or read_manifest(paths.manifest).digest
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"manifest": manifest, "num_folds": None, "contrasts": list(contrasts), "notes": ["What a reader knows."]}
    path.write_text(json.dumps(values | ({} if params is None else {"params": params})))


def test_the_first_contrast_is_the_headline_and_the_run_stands_below(paths):
    of_run = make_report(paths)
    assert 'id="study"' not in of_run
    put_study(paths, CONTRAST, {**CONTRAST, "name": "light & <more>", "mean": -0.02, "low": -0.05, "high": 0.01})
    page = make_report(paths)
    assert '<h1 id="result" class="good">Distillation brings +4.0 points of top-1</h1>' in page
    assert "95 % interval +1.2 to +7.1, above zero in 3 of 3; their standard deviation is 2.6 points." in page
    assert "This run: On 12 dark test videos" in page
    assert page.count('<circle class="run"') == 6
    assert "seed 1: +1.0" in page
    assert "light &amp; &lt;more&gt;" in page
    assert "What a reader knows." in page


@pytest.mark.parametrize(
    ("changes", "headline"),
    [
        ({"low": -0.01}, "Distillation: +4.0 points of top-1, which may be chance"),
        ({"mean": -0.04, "low": -0.07, "high": -0.01}, "Distillation costs 4.0 points of top-1"),
        ({"on": "val", "low": None, "high": None}, "Distillation: +4.0 points of top-1, which may be chance"),
        ({"on": "val", "low": None, "high": None, "half_over_seeds": 0.03}, "Distillation brings +4.0 points of top-1"),
    ],
)
def test_the_interval_decides_what_is_claimed(paths, changes, headline):
    put_study(paths, {**CONTRAST, **changes})
    assert f">{headline}</h1>" in make_report(paths)


def test_a_single_seed_leaves_the_headline_to_the_run(paths):
    alone = {"half_over_seeds": None, "sd": None, "low": 0.01, "high": 0.07, "num_runs": 1, "runs": RUNS[:1]}
    headline = make_report(paths).partition("</h1>")[0].rpartition(">")[2]
    put_study(paths, {**CONTRAST, **alone})
    page = make_report(paths)
    assert f">{headline}</h1>" in page
    assert page.count('<circle class="run"') == 1


def test_a_contrast_whose_runs_all_failed_has_no_numbers(paths):
    nothing = dict.fromkeys(("mean", "half_over_seeds", "low", "high", "sd", "better"))
    put_study(paths, CONTRAST, {**CONTRAST, **nothing, "name": "lost", "num_above": 0, "num_runs": 0, "runs": []})
    page = make_report(paths)
    assert "lost" in page
    assert page.count('<circle class="run"') == 3
    put_study(paths, {**CONTRAST, **nothing, "num_above": 0, "num_runs": 0, "runs": []})  # and no other is there
    page = make_report(paths)
    assert "0 of 0" in page
    assert 'class="run"' not in page


def test_a_study_of_other_videos_is_named_and_not_shown(paths):
    put_study(paths, CONTRAST, manifest="0" * 32)
    page = make_report(paths)
    assert "is of other videos or parameters (manifest 00000000, here" in page
    assert 'class="run"' not in page


def test_a_study_with_other_parameters_is_not_of_the_run_but_for_its_seed(paths):
    params = load_params(paths.params).model_dump(mode="json")
    later = {name: value for name, value in params.items() if name != "soft_loss"}
    later["clip"] = {name: value for name, value in params["clip"].items() if name != "size"}
    for stated in (params, {**params, "seed": 99}, later):
        put_study(paths, CONTRAST, params=stated)
        assert "Distillation brings +4.0 points" in make_report(paths)
    for other in ({**params, "temperature": 9.0}, {**params, "clip": {"size": 1}}, {**params, "gone": 1}):
        put_study(paths, CONTRAST, params=other)
        assert "is of other videos or parameters" in make_report(paths)


def test_the_first_study_of_the_run_is_shown_and_none_but_the_first_is_missed(paths):
    put_study(paths, {**CONTRAST, "name": "shipped"}, place=1)
    assert "shipped" in make_report(paths)
    put_study(paths, {**CONTRAST, "name": "my own"})
    assert "my own" in make_report(paths)
    put_study(paths, CONTRAST, manifest="0" * 32)
    assert "shipped" in make_report(paths)
    paths.studies[0].unlink()
    put_study(paths, CONTRAST, manifest="0" * 32, place=1)
    assert 'id="study"' not in make_report(paths)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"manifest": "x", "contrasts": [], "notes": []}', "\xff"])
def test_a_damaged_study_is_refused(paths, text):
    put_study(paths, CONTRAST)
    paths.studies[0].write_text(text)
    with pytest.raises(StaleArtifactError, match=r"study\.json: is not what `dlkdd study` writes"):
        make_report(paths)


def test_a_folder_is_no_study(paths):
    paths.studies[0].mkdir(parents=True)
    with pytest.raises(StaleArtifactError, match="Is a directory"):
        make_report(paths)
