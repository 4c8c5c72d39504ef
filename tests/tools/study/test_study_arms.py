"""Arms set any parameter that a study uses, and everything that is wrong with them is told at once."""

from __future__ import annotations

import re

import pytest
from paths import ROOT

from pipeline.core.errors import ParamsError
from pipeline.core.params import load_params, overridden
from pipeline.enhance.file import ENHANCERS
from pipeline.tools.study.arms import Contrast, Side, read_design


@pytest.fixture(scope="module")
def params():
    """Of the demo, with all labels."""
    return overridden(load_params(ROOT / "params.yaml"), {"prepare.unlabelled_share": 0.0}, name="the demo")


@pytest.fixture
def design_of(params, tmp_path):
    """Reads a file of this text, and arms of a command line."""

    def design_of(text=None, *arms, params=params, with_bright=False):
        path = tmp_path / "arms.yaml"
        if text is not None:
            path.write_text(text)
        return read_design(None if text is None else path, arms, params, with_bright=with_bright)

    return design_of


def test_without_arms_it_is_the_parameter_file_and_the_total(design_of, params):
    design = design_of()
    assert [(arm.name, arm.params) for arm in design.arms] == [("default", params)]
    assert design.contrasts == (Contrast("total", Side("default", "student"), Side("default", "baseline")),)


def test_the_demos_arms_can_be_read(params):
    design = read_design(ROOT / "configs/studies/demo.yaml", [], params, with_bright=True)
    arms = {arm.name: arm for arm in design.arms}
    assert arms["self"].params.enhancer == "none"
    assert arms["smoothing"].params.train_student.label_smoothing == 0.1
    assert list(arms["dual"].params.more_teachers) == ["dark"]
    assert {name: arm.unlabelled_share for name, arm in arms.items() if arm.unlabelled_share} == {
        "few": 0.67, "few_alone": 0.67, "few_agreed": 0.67, "few_self": 0.67, "few_dual": 0.67,
        "sixth": 0.83, "sixth_alone": 0.83, "sixth_self": 0.83,
    }  # fmt: skip
    assert arms["few_alone"].params.soft_targets.min_agreement is None
    assert (arms["bright"].bright, arms["bright"].params) == (True, params)
    (diversity,) = [each for each in design.contrasts if each.name == "diversity"]
    assert (diversity.first, diversity.second) == (Side("dual", "student"), Side("two_of_a_kind", "student"))


def test_the_arms_of_all_enhancers_can_be_read(params):
    design = read_design(ROOT / "configs/studies/enhancers.yaml", [], params, with_bright=False)
    assert [(arm.name, arm.params.enhancer) for arm in design.arms] == [(name, name) for name in ENHANCERS]
    assert len(design.contrasts) == 3 * len(ENHANCERS) - 2  # against none: teacher, student; and each total


def test_the_command_line_adds_arms_to_the_file(design_of):
    design = design_of(
        "arms: {a: {}}\ncontrasts:\n  x: b.teacher - a\n",
        "b: temperature=3 clip='{num_frames: 4, frame_stride: 1, size: 32}'",
    )
    assert design.arms[1].params.clip.num_frames == 4
    assert [str(side) for side in (design.contrasts[0].first, design.contrasts[0].second)] == ["b.teacher", "a"]


def test_several_arms_without_contrasts_have_a_total_each(design_of):
    assert [each.name for each in design_of(None, "a: ", "b: temperature=3").contrasts] == ["total a", "total b"]


@pytest.mark.parametrize(
    ("arm", "finding"),
    [
        ("seed: 3", "seed: a study sets the seeds itself"),
        ("render: []", "render: is used before the study begins, or after it"),
        ("prepare.split: 2", "prepare.split: is used before the study begins, or after it"),
        ("evaluate.num_bootstraps: 200", "evaluate.num_bootstraps: is used before"),
        ("temprature: 3", "temprature is not a parameter; did you mean temperature?"),
        ("temperature: -1", "temperature: input should be greater than 0, not -1"),
        ("train_student.epochs: two", "train_student.epochs: input should be a valid integer"),
        ("prepare.unlabelled_share: 1.5", "prepare.unlabelled_share: input should be less than 1"),
        ("enhancer: magic", "enhancer: "),
        ("enhancer: bright", "enhancer: bright takes the frames of --bright"),
    ],
)
def test_what_an_arm_may_not_set_is_refused(design_of, arm, finding):
    with pytest.raises(ParamsError, match=re.escape(finding)):
        design_of(f"arms:\n  good: {{}}\n  wrong: {{{arm}}}\n")


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("a b: temperature=3", "an arm's name has letters, digits, _, + and -"),
        ("a.b: temperature=3", "an arm's name has letters, digits, _, + and -"),
        ("x: temperature=[", "'temperature=[': the value is not YAML"),
        ("x: temperature=3 temperature=4", "temperature: is set twice"),
        ("x: temperature", "'temperature' is not key=value"),
        ("x: 'temperature=3", "No closing quotation"),
        ("temperature=3", "is not `name: key=value …`"),
        ("default: temperature=3", "an arm has this name already"),
        ("x: ", "has the same parameters as default"),
    ],
)
def test_what_an_option_may_not_be_is_refused(design_of, text, finding):
    with pytest.raises(ParamsError, match=re.escape(finding)):
        design_of("arms: {default: {}}", text)


@pytest.mark.parametrize(
    ("contrast", "finding"),
    [
        ("a", "expected `first - second`"),
        ("a-b", "expected `first - second`"),
        ("a - b - a", "expected `first - second`"),
        ("a.pupil - b", "expected `first - second`"),
        ("3", "expected `first - second`"),
        ("a - c.teacher", "there is no arm c"),
        ("a - a.student", "both are a"),
    ],
)
def test_what_a_contrast_may_not_be_is_refused(design_of, contrast, finding):
    with pytest.raises(ParamsError, match=re.escape(finding)) as caught:
        design_of(f"arms:\n  a: {{}}\n  b: {{temperature: 3}}\ncontrasts:\n  x: {contrast}\n")
    assert "arms.yaml:5: x: " in str(caught.value)


def test_all_findings_come_at_once_with_their_lines(design_of):
    text = "arms:\n  a: {}\n  b:\n    seed: 1\n    temperature: -1\n  c: {soft_loss: magic}\ncontrasts:\n  x: a - d\n"
    with pytest.raises(ParamsError) as caught:
        design_of(text, "e: temperature=0")
    assert [re.sub(r".*arms.yaml", "", finding)[:14] for finding in caught.value.findings] == [
        ":4: b: seed: a",
        ":5: b: tempera",
        ":6: c: soft_lo",
        "e: temperature",
        ":8: x: there i",
    ]


def test_the_line_is_that_of_the_parameter_also_where_another_name_begins_alike(design_of):
    with pytest.raises(ParamsError, match=re.escape("arms.yaml:4: a: teacher_clip: ")):
        design_of("arms:\n  a:\n    teacher: r2plus1d_slim\n    teacher_clip: 3\n")


@pytest.mark.parametrize("text", ["", "a: 1", "arms: {}", "arms: [a]", "arms:\n  a: 3", "arms: {a: {}}\nother: 1"])
def test_a_file_of_another_form_is_refused(design_of, text):
    with pytest.raises(ParamsError):
        design_of(text)


def test_bright_frames_that_no_arm_needs_are_told(design_of):
    with pytest.raises(ParamsError, match="no arm has enhancer: bright"):
        design_of("arms: {a: {}}", with_bright=True)


def test_labels_are_not_taken_twice(design_of, params):
    less = params.model_copy(update={"prepare": params.prepare.model_copy(update={"unlabelled_share": 0.5})})
    with pytest.raises(ParamsError, match="prepare it with 0"):
        design_of("arms: {few: {prepare.unlabelled_share: 0.67}}", params=less)
    assert design_of(params=less).arms[0].unlabelled_share == 0
