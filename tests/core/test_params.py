"""A parameter file is complete and right, or every mistake in it is named, with its line, in one error."""

from __future__ import annotations

import re

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from paths import ROOT
from pydantic import ValidationError

from pipeline.core.errors import ParamsError
from pipeline.core.params import ClipParams, Params, TrainParams, load_params, load_section, stage_values

SHIPPED = ROOT / "params.yaml"
VALUES = yaml.safe_load(SHIPPED.read_text())
LINES = yaml.safe_dump(VALUES, sort_keys=False).splitlines()


class Edited:
    """The shipped parameters with some values replaced by other YAML text; knows the line of each key."""

    def __init__(self, path, edits=None, *, extra=()):
        self.path, self.line = path, {}
        edits, section, lines = dict(edits or {}), "", []
        for text in LINES:
            indent, key = re.match(r"( *)(\w+|-)", text).groups()  # - is an item of a list
            section = section if indent else key
            place = f"{section}.{key}" if indent else key
            if place in edits:
                text = f"{indent}{key}: {edits.pop(place)}"
            lines.append(text)
            self.line[place] = len(lines)
        assert not edits, f"no such key: {edits}"
        path.write_text("\n".join([*lines, *extra, ""]), encoding="utf-8")

    def refused(self):
        with pytest.raises(ParamsError) as caught:
            load_params(self.path)
        assert caught.value.exit_code == 2
        assert str(caught.value).startswith(str(self.path))
        return caught.value


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params.yaml"


def test_every_value_is_read_as_yaml_says(path):
    Edited(path)
    assert load_params(path).model_dump() == yaml.safe_load(path.read_text())


def test_an_integer_will_do_for_a_real_number(path):
    Edited(path, {"temperature": "3"})
    assert load_params(path).temperature == 3.0


TRAPS = [
    ("temperature", "0", "greater than 0"),
    ("temperature", "-2.0", "greater than 0"),
    ("temperature", ".nan", ""),
    ("temperature", ".inf", "finite"),
    ("temperature", "'2.0'", "valid number"),
    ("temperature", "true", "valid number, not True"),
    ("temperature", "", "valid number"),
    ("soft_weight", "-0.1", "greater than or equal to 0"),
    ("soft_weight", "1.01", "less than or equal to 1"),
    ("soft_weight", ".nan", ""),
    ("seed", "true", "valid integer, not True"),
    ("seed", "1.0", "valid integer"),
    ("seed", "-1", "greater than or equal to 0"),
    ("seed", str(2**32), "less than"),
    ("enhancer", "no", "not 'no'"),
    ("enhancer", "gama", "'gamma'"),
    ("teacher", "r2plus1d", "'r2plus1d_18'"),
    ("soft_loss", "hinton", "'kl'"),
    ("clip.size", "64.5", "valid integer"),
    ("clip.size", "'64'", "valid integer"),
    ("clip.size", "8", "greater than or equal to 16"),
    ("clip.num_frames", "0", "greater than or equal to 1"),
    ("clip.num_frames", "[8]", "valid integer"),
    ("views.flip", "1", "valid boolean"),
    ("views.flip", "yes", "valid boolean (true or false), not 'yes'"),
    ("views.min_scale", "0", "greater than 0"),
    ("views.min_scale", ".nan", ""),
    ("views.max_aspect", "0.5", "greater than or equal to 1"),
    ("views.max_aspect", ".inf", "finite"),
    ("views.max_aspect", ".nan", ""),
    ("views.mix", "blend", "'cutmix'"),
    ("views.mix_share", "0", "greater than 0"),
    ("views.mix_share", "1.5", "less than or equal to 1"),
    ("views.mix_alpha", "0", "greater than 0"),
    ("views.mix_alpha", ".inf", "finite"),
    ("prepare.root", "2024-01-01", "needs quotes"),
    ("prepare.val_share", "1.0", "less than 1"),
    ("prepare.val_share", "0", "greater than 0"),
    ("prepare.max_quarantined", ".nan", ""),
    ("prepare.jpeg_quality", "101", "less than or equal to 100"),
    ("train_teacher.learning_rate", "1e-", "valid number"),
    ("train_teacher.learning_rate", "0.0", "greater than 0"),
    ("train_student.weight_decay", "-1.0", "greater than or equal to 0"),
    ("train_student.weight_decay", ".inf", "finite"),
    ("train_student.dropout", "1.0", "less than 1"),
    ("train_student.dropout", ".nan", ""),
    ("train_student.label_smoothing", ".nan", ""),
    ("train_student.clip_grad_norm", "0", "greater than 0"),
    ("train_student.width", "0", "greater than or equal to 1"),
    ("train_student.num_workers", "-1", "greater than or equal to 0"),
    ("score.num_crops", "2", "1 or 3"),
    ("evaluate.num_bootstraps", "99", "greater than or equal to 100"),
]


@pytest.mark.parametrize(("place", "text", "words"), TRAPS, ids=[f"{place}={text}" for place, text, _ in TRAPS])
def test_a_wrong_value_is_named_with_its_line(path, place, text, words):
    edited = Edited(path, {place: text})
    (finding,) = edited.refused().findings
    assert finding.startswith(f"line {edited.line[place]}: {place}: ")
    assert words in finding


def test_a_warm_up_must_end(path):
    edited = Edited(path, {"train_student.epochs": "3", "train_student.warmup_epochs": "3"})
    (finding,) = edited.refused().findings
    assert finding.startswith(f"line {edited.line['train_student']}: train_student: warmup_epochs (3) must be below")


@given(st.floats(width=32) | st.floats(0, 1))
def test_a_temperature_is_any_positive_finite_number_and_nothing_else(value):
    given_values = {**VALUES, "temperature": value}
    if 0 < value < float("inf"):
        assert Params.model_validate(given_values).temperature == value
    else:
        with pytest.raises(ValidationError):
            Params.model_validate(given_values)


@pytest.mark.parametrize(
    ("extra", "finding"),
    [
        ("temprature: 2.0", "line {}: temprature is not a parameter; did you mean temperature?"),
        ("clip_size: 64", "line {}: clip_size is not a parameter"),
        ("xyzzy: 1", "line {}: xyzzy is not a parameter"),
    ],
)
def test_an_unknown_key_is_refused_and_the_nearest_named(path, extra, finding):
    edited = Edited(path, extra=[extra])
    (found,) = edited.refused().findings
    assert found.startswith(finding.format(len(LINES) + 1))


def test_an_unknown_key_in_a_section_is_compared_with_that_section(path):
    (found,) = Edited(path, {"score.num_clips": "3\n  num_clip: 3"}).refused().findings
    assert found.endswith("score.num_clip is not a parameter; did you mean score.num_clips?")


def test_a_missing_key_and_a_missing_section_are_named(path):
    values = yaml.safe_load(SHIPPED.read_text())
    del values["temperature"], values["clip"]["size"], values["evaluate"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert set(caught.value.findings) == {"temperature is missing", "clip.size is missing", "evaluate is missing"}


def test_all_mistakes_are_told_at_once(path):
    edits = {"temperature": "0", "soft_weight": "2", "clip.size": "1", "train_student.learning_rate": "fast"}
    error = Edited(path, edits, extra=["temprature: 1"]).refused()
    assert len(error.findings) == 5
    assert str(error).splitlines()[0].endswith("5 wrong parameters")


def test_duplicate_keys_are_refused_with_both_lines(path):
    edited = Edited(path, extra=["temperature: 4.0", "clip:", "  size: 32", "  size: 48", "  'size': 48"])
    first, last = edited.line, len(LINES)
    assert edited.refused().findings == (
        f"line {last + 1}: temperature is set again (first in line {first['temperature']})",
        f"line {last + 2}: clip is set again (first in line {first['clip']})",
        f"line {last + 3}: clip.size is set again (first in line {first['clip.size']})",
        f"line {last + 4}: clip.size is set again (first in line {first['clip.size']})",
        f"line {last + 5}: clip.size is set again (first in line {first['clip.size']})",
    )


NOT_PARAMETERS = {
    "empty": b"",
    "only a comment": b"# nothing\n",
    "null": b"null\n",
    "list": b"- seed: 0\n",
    "number": b"3\n",
    "text": b"seed\n",
    "open bracket": b"seed: [1\n",
    "tab": b"clip:\n\tsize: 64\n",
    "two documents": b"seed: 0\n---\nseed: 1\n",
    "undefined alias": b"seed: *other\n",
    "a tag that makes objects": b"seed: !!python/object/apply:os.system ['true']\n",
    "unhashable key": b"? [a, b]\n: 1\n",
    "control character": b"seed: \x07\n",
    "not utf-8": "prepare: {root: Bühne}\n".encode("latin-1"),
    "impossible date": b"seed: 2024-13-45\n",
    "recursive": b"clip: &clip\n  size: *clip\n",
}


@pytest.mark.parametrize("content", NOT_PARAMETERS.values(), ids=NOT_PARAMETERS.keys())
def test_a_file_that_is_something_else_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=re.escape(str(path))):
        load_params(path)


def test_a_missing_file_is_refused_with_the_way_to_name_one(path):
    with pytest.raises(ParamsError, match="--params"):
        load_params(path)


def test_a_folder_is_no_parameter_file(tmp_path):
    with pytest.raises(ParamsError, match="cannot be read"):
        load_params(tmp_path)


@pytest.mark.parametrize("section", ["", "clip", "train_student"])
def test_parameters_do_not_change_once_read(section):
    params = load_params(SHIPPED)
    part = getattr(params, section) if section else params
    with pytest.raises(ValidationError, match="frozen"):
        setattr(part, next(iter(type(part).model_fields)), 3)


def test_one_section_of_a_file_can_be_read_alone(path):
    path.write_text("clip: {num_frames: 8, frame_stride: 2, size: 32}\nother: {}\n")
    assert load_section(path, "clip", ClipParams) == ClipParams(num_frames=8, frame_stride=2, size=32)


def test_a_section_that_is_not_there_is_refused_with_those_that_are(path):
    path.write_text("clip: {}\nother: {}\n")
    with pytest.raises(ParamsError, match="no section clips; there are: clip, other"):
        load_section(path, "clips", ClipParams)


def test_mistakes_in_a_single_section_are_named_by_their_place_in_the_file(path):
    path.write_text("clip:\n  num_frames: 0\n  frame_stride: 1\n  sise: 64\n")
    with pytest.raises(ParamsError) as caught:
        load_section(path, "clip", ClipParams)
    first, *others = caught.value.findings
    assert first.startswith("line 2: clip.num_frames: ")
    assert set(others) == {"line 4: clip.sise is not a parameter; did you mean clip.size?", "clip.size is missing"}


def test_stage_values_keep_sections_of_one_kind_apart_from_dials():
    params = load_params(SHIPPED)
    values = stage_values(params.clip, params.train_student, seed=3)
    assert values == {
        ClipParams.__name__: params.clip.model_dump(),
        TrainParams.__name__: params.train_student.model_dump(),
        "seed": 3,
    }


# more teachers

ENTRY = {"enhancer": "none", "network": "r2plus1d_slim", "seed": 1, "clip": None, "training": {}}


def with_teachers(path, **entries):
    path.write_text(yaml.safe_dump({**VALUES, "more_teachers": entries}, sort_keys=False))
    return path


def test_a_further_teacher_is_trained_as_the_first_one_but_for_what_its_entry_says(path):
    params = load_params(with_teachers(path, dark=ENTRY, wide={**ENTRY, "training": {"width": 32}}))
    assert list(params.more_teachers) == ["dark", "wide"]
    dark, wide = (teacher.training_params(params.train_teacher) for teacher in params.more_teachers.values())
    assert dark == params.train_teacher
    assert wide == params.train_teacher.model_copy(update={"width": 32})
    assert list(params.trainings()) == ["train_teacher", "more_teachers.dark", "more_teachers.wide", "train_student"]


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("second", {"training": {"widht": 3}}, "more_teachers.second.training.widht is not a parameter; did you mean"),
        ("second", {"training": {"epochs": 0}}, "more_teachers.second.training.epochs: input should be greater than"),
        ("second", {"training": {"warmup_epochs": 99}}, "warmup_epochs (99) must be below epochs"),
        ("second", {"enhancer": "gama"}, "more_teachers.second.enhancer"),
        ("second", {"network": None}, "more_teachers.second.network"),
        ("second", {"light": 1}, "more_teachers.second.light is not a parameter"),
        ("a/b", {}, "more_teachers.a/b"),
        ("../x", {}, "more_teachers"),
        ("Second", {}, "more_teachers.Second"),
    ],
)
def test_a_further_teacher_that_cannot_be_trained_is_refused_with_its_name(path, name, change, words):
    with pytest.raises(ParamsError) as caught:
        load_params(with_teachers(path, **{name: {**ENTRY, **change}}))
    (finding,) = caught.value.findings
    assert words in finding


@pytest.mark.parametrize("name", ["teacher_clip", "more_teachers.second.clip"])
@pytest.mark.parametrize(("times", "stride", "is_right"), [(1, 3, True), (3, 1, True), (2, 1, False), (1, 1, False)])
def test_a_teacher_sees_what_the_student_sees(path, name, times, stride, is_right):
    """The shipped clip is of 8 frames, 3 apart."""
    clip = {"num_frames": 8 * times, "frame_stride": stride, "size": 80}
    first = name == "teacher_clip"
    values = {**VALUES, "teacher_clip": clip if first else None}
    values["more_teachers"] = {"second": {**ENTRY, "clip": None if first else clip}}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    if is_right:
        found = load_params(path).clips()
        changed = "train_teacher" if first else "more_teachers.second"
        assert [key for key, value in found.items() if value.model_dump() == clip] == [changed]
        return
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert caught.value.findings[0].startswith(
        f"{name} has {8 * times} frames, {stride} apart, for views of 8, 3 apart"
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"train_teacher": {"mixup": 0.4}},
            "views.mix is cutmix, and train_teacher has mixup 0.4, cutmix 0: clips are",
        ),
        ({"train_student": {"cutmix": 1.0}}, "views.mix is cutmix, and train_student has mixup 0, cutmix 1: clips are"),
        (
            {"more_teachers": {"second": {**ENTRY, "training": {"mixup": 0.2}}}},
            "and more_teachers.second has mixup 0.2",
        ),
        ({"soft_loss": "dkd"}, "soft_loss dkd looks at the label of each clip: a blend has two"),
        ({"teacher_folds": 4}, "teacher_folds 4: a fold's teacher would have seen the videos that others are"),
    ],
)
def test_clips_are_blended_once_and_by_losses_that_take_two_labels(path, changes, words):
    for mix in ("none", "cutmix"):
        values = {**VALUES, "views": {**VALUES["views"], "mix": mix}}
        for name, change in changes.items():
            values[name] = {**values[name], **change} if isinstance(change, dict) else change
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        if mix == "none":
            load_params(path)
            continue
        with pytest.raises(ParamsError) as caught:
            load_params(path)
        assert words in caught.value.findings[0]
