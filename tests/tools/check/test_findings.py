"""Each kind of finding about parameters and data comes from a set-up broken in that way; a sound one has none."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from builders import tiny_recognizer
from check_setups import NUM_FRAMES, SMOKE, look_at, messages, params, prepare_here, the_finding
from ffmpeg import ffmpeg
from video_files import encode, patched

from pipeline.core.errors import ParamsError
from pipeline.core.params import load_params
from pipeline.models.recognizer import save_model
from pipeline.tools.check.findings import EXIT_CODES, MAX_DETAILS, Group, exit_code, size_text
from pipeline.tools.check.params import Known, check_params

# groups


def test_the_first_group_with_a_problem_gives_the_code():
    data, parameters, disk = Group("data"), Group("parameters"), Group("disk")
    for group in (data, parameters, disk):
        group.warning("it may be slow", remedy="wait")
    assert exit_code([data, parameters, disk]) == 0
    disk.problem("full", remedy="empty it")
    assert exit_code([data, parameters, disk]) == 4
    data.problem("broken", remedy="repair it")
    assert exit_code([data, parameters, disk]) == 3
    parameters.problem("wrong", remedy="right it")
    assert exit_code([data, parameters, disk]) == 2
    assert set(EXIT_CODES.values()) == {2, 3, 4}


def test_an_error_of_a_stage_becomes_a_problem_with_its_remedy():
    group = Group("parameters")
    with group.catching("train_teacher"):
        raise ParamsError("wrong width", findings=["it is 7"], remedy="take 8")
    finding = the_finding(group)
    assert (finding.level, finding.message, finding.details, finding.remedy) == (
        "problem", "train_teacher: wrong width", ("it is 7",), "take 8",
    )  # fmt: skip


def test_many_cases_do_not_hide_other_findings():
    group = Group("data")
    group.problem("broken", remedy="repair", details=[str(number) for number in range(500)])
    assert len(the_finding(group).details) == MAX_DETAILS + 1
    assert the_finding(group).details[-1] == f"… and {500 - MAX_DETAILS} more"


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (300 * 2**20, "300 MiB"), (5 * 2**40, "5.0 TiB")],
)
def test_sizes_are_for_people(num_bytes, text):
    assert size_text(num_bytes) == text


# data


@pytest.mark.parametrize("every_frame", [False, True])
def test_sound_data_have_no_finding(checked_project, every_frame):
    group, data = look_at(params(), every_frame=every_frame)
    assert group.findings == []
    assert data.splits == {"train": 4, "val": 2, "test": 2}
    assert [found.num_frames for found in data.seen] == [NUM_FRAMES] * 8


def test_several_processes_see_the_same(checked_project):
    Path("data/jump/jump0.mp4").write_bytes(b"no video")
    assert look_at(params(), num_processes=2) == look_at(params())


def test_a_root_that_is_not_there(checked_project):
    group, data = look_at(params(prepare__root="nowhere"))
    assert the_finding(group).level == "problem"
    assert "nowhere" in the_finding(group).message
    assert data.listing is None


def test_demo_videos_that_dvc_will_render_are_no_problem(checked_project):
    group, _ = look_at(params(prepare__root="data/demo"))
    assert the_finding(group).level == "warning"
    assert "dvc repro" in the_finding(group).remedy


def test_missing_and_broken_videos_are_found_together(checked_project):
    Path("data/jump/jump0.mp4").unlink()
    Path("data/wave/wave1.mp4").write_bytes(b"")
    group, data = look_at(params())
    missing, broken = group.findings
    assert missing.level == "problem"
    assert "jump/jump0.mp4 is missing" in missing.details[0]
    assert broken.details == ("wave/wave1.mp4 (train): the file is empty",)
    assert len(data.seen) == 6
    assert data.splits["train"] == 4


def test_lists_that_cannot_be_read(checked_project):
    with Path("data/videos.csv").open("a") as file:
        file.write("jump/jump9.mp4,jump,jump9,eval\n")
    group, _ = look_at(params())
    assert "split is train, val, test or unlabelled, not 'eval'" in the_finding(group).details[0]
    assert the_finding(group).level == "problem"


def test_few_broken_videos_are_a_warning_and_many_a_problem(checked_project):
    Path("data/jump/jump0.mp4").write_bytes(b"no video")
    group, _ = look_at(params())
    assert the_finding(group).level == "warning"
    group, _ = look_at(params(prepare__max_quarantined=0.1))
    assert the_finding(group).level == "problem"
    assert "12.50%" in the_finding(group).message


def test_a_class_that_quarantine_would_take_from_a_split(checked_project):
    Path("data/wave/wave3.mp4").write_bytes(b"no video")
    group, _ = look_at(params())
    assert "wave in test" in the_finding(group).message
    assert the_finding(group).level == "problem"


def test_videos_with_too_few_frames(checked_project):
    group, _ = look_at(params(prepare__min_frames=NUM_FRAMES + 1))
    assert "8 of 8 videos are broken" in the_finding(group).message
    assert "10 frames, fewer than the 11 of prepare.min_frames" in the_finding(group).details[0]


@pytest.mark.parametrize("every_frame", [False, True])
def test_damaged_videos_that_prepare_takes_are_a_warning(checked_project, every_frame):
    path = Path("data/jump/jump1.mp4")
    encode(path.with_suffix(".mkv"), frames=20, options={"g": "3", "bf": "0"})
    content = path.with_suffix(".mkv").read_bytes()
    path.write_bytes(content[: int(len(content) * 0.7)])
    path.with_suffix(".mkv").unlink()
    group, data = look_at(params(prepare__damaged="take"), every_frame=every_frame)
    assert "1 of 8 videos are damaged: `prepare` will take" in the_finding(group).message
    assert the_finding(group).level == "warning"
    assert len(data.seen) == 8
    group, _ = look_at(params(), every_frame=every_frame)
    assert "1 of 8 videos are broken" in the_finding(group).message


def test_damage_behind_the_first_frame_needs_every_frame(checked_project):
    path = Path("data/jump/jump1.mp4")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)
    assert look_at(params())[0].findings == []
    group, _ = look_at(params(), every_frame=True)
    assert "jump/jump1.mp4" in the_finding(group).details[0]


def replaced(old, new, **options):
    """A video of another kind, under another name in the table; returns its path."""
    table, path = Path("data/videos.csv"), Path("data", new)
    Path("data", old).unlink()
    table.write_text(table.read_text().replace(old, new))
    return encode(path, codec="mpeg4", **options)


def without_its_end(old, new):
    path = replaced(old, new)
    path.write_bytes(path.read_bytes()[:-1500])


def with_more_in_its_header(old, new):
    patched(replaced(old, new), (b"strh", 40, struct.pack("<I", 35)))


BREAKING = {
    "no video": lambda old: Path("data", old).write_bytes(b"no video"),
    "a short one": lambda old: replaced(old, "jump/new.mp4", frames=7),
    "a short one without a count": lambda old: replaced(old, "jump/new.mkv", frames=7),
    "cut off": lambda old: without_its_end(old, "jump/new.mkv"),
    "fewer than its header states": lambda old: with_more_in_its_header(old, "jump/new.avi"),
}


@pytest.mark.parametrize("how", BREAKING)
@pytest.mark.parametrize("every_frame", [False, True])
def test_what_is_found_broken_prepare_quarantines(checked_project, every_frame, how):
    BREAKING[how]("jump/jump0.mp4")
    chosen = params()
    group, _ = look_at(chosen, every_frame=every_frame)
    prepared = prepare_here(chosen)
    assert the_finding(group).details == tuple(f"{row.path} ({row.split}): {row.reason}" for row in prepared.quarantine)


def test_a_second_video_track_is_told_of(checked_project):
    path = Path("data/jump/jump0.mp4")
    sizes = [("-f", "lavfi", "-i", f"testsrc=s={size}:r=10:d=1") for size in ("48x36", "96x72")]
    marks = ("-map", "0", "-map", "1", "-disposition:v:0", "0", "-disposition:v:1", "default")
    ffmpeg(*(word for words in sizes for word in words), *marks, path)
    note = "of several video tracks the one that ffmpeg chooses is read, of the size given: jump/jump0.mp4 (96x72)"
    group, _ = look_at(params())
    assert note in group.facts
    assert prepare_here(params()).notes == (note,)


def test_a_group_in_two_splits(checked_project):
    table = Path("data/videos.csv")
    table.write_text(table.read_text().replace("wave3,test", "wave0,test"))
    group, _ = look_at(params())
    assert the_finding(group).level == "warning"
    assert "share a group" in the_finding(group).details[0]


def test_splits_that_cannot_be_carved(checked_project):
    Path("data/videos.csv").write_text("path,label\njump/jump0.mp4,jump\nwave/wave0.mp4,wave\n")
    group, data = look_at(params())
    assert "cannot be carved" in the_finding(group).message
    assert data.splits is None
    assert data.listing is not None


def test_videos_that_are_shorter_than_a_clip(checked_project):
    group, _ = look_at(params(clip__num_frames=6))
    assert "8 of 8 videos have fewer frames than a clip spans (11)" in the_finding(group).message
    assert the_finding(group).level == "warning"


# parameters

CPU = torch.device("cpu")


def compare(chosen, *, num_train=16, class_names=("a", "b", "c", "d"), num_processes=1, train=()):
    group = Group("parameters")
    check_params(group, chosen, Known(class_names, num_train, CPU, num_processes, train=train))
    return group


def test_the_smoke_recipe_has_no_problem():
    assert messages(compare(load_params(SMOKE)), "problem") == []


ENTRY = {"enhancer": "gamma", "network": "r2plus1d_slim", "seed": 1, "clip": None, "training": {}}


def test_further_teachers_are_named_and_looked_at():
    group = compare(params(more_teachers={"second": ENTRY, "third": {**ENTRY, "network": "x3d_s"}}))
    (fact,) = [fact for fact in group.facts if fact.startswith("teachers: ")]
    assert "second (r2plus1d_slim, gamma, seed 1), third (x3d_s, gamma, seed 1)" in fact
    (message,) = messages(group, "problem")
    assert message.startswith("more_teachers.third: ")  # has no width
    assert "width" in message


def test_a_teacher_twice_and_an_online_one_of_several():
    same = {**ENTRY, "seed": params().seed}
    group = compare(params(more_teachers={"second": same, "third": same}, soft_targets__source="online"))
    assert messages(group, "problem") == [
        "more_teachers.second: the same teacher as the dials' one",
        "more_teachers.third: the same teacher as the dials' one",
        "more_teachers.third: the same teacher as second",
        "soft_targets.source is online, which takes one teacher, and more_teachers has 2 more",
    ]


def test_folds_are_told_and_too_few_groups_and_an_online_teacher_are_found():
    train = [(f"{name} {place % 4}", name) for name in "abcd" for place in range(8)]
    group = compare(params(teacher_folds=2), train=train)
    assert messages(group, "problem") == []
    fact = "teacher_folds: 2 more trainings of the teacher, each as long, without 16, 16 of 32 training videos"
    assert any(text.startswith(fact) for text in group.facts)
    (message,) = messages(compare(params(teacher_folds=5), train=[("one", "a"), ("two", "b")]), "problem")
    assert message.startswith("teacher_folds is 5, and the training videos are of 2 group(s)")
    (message,) = messages(compare(params(teacher_folds=2, soft_targets__source="online"), train=train), "problem")
    assert message == "soft_targets.source is online, which takes one teacher, and teacher_folds is 2"


def test_without_data_what_depends_on_them_is_left_out():
    group = compare(params(precompute_soft_targets__codec="topk"), num_train=None, class_names=None)
    assert messages(group, "problem") == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "mvit_v2_s"}, "train_teacher: mvit_v2_s: width must be null"),
        ({"teacher": "mvit_v2_s"}, "train_teacher: mvit_v2_s cannot take clips of 4×32×32"),
        ({"train_student__drop_path": 0.1}, "train_student: r2plus1d_slim has no stochastic depth"),
        ({"train_teacher__frozen_stages": 40}, "train_teacher: r2plus1d_slim has "),
        ({"train_student__precision": "bfloat16"}, "train_student: precision bfloat16"),
        ({"train_teacher__weights": "no_such.pth"}, "train_teacher: weights: no_such.pth: no such file"),
        ({"train_teacher__weights": "torchvision"}, "train_teacher: torchvision has no weights for r2plus1d_slim"),
        ({"enhancer": "zero_dce", "fit_enhancer__weights": "no.pth"}, "fit_enhancer.weights: no.pth: no such file"),
        ({"precompute_soft_targets__codec": "topk"}, "precompute_soft_targets: top_k must be in 1 … 3"),
    ],
)
def test_what_a_stage_would_refuse(changes, message):
    assert any(text.startswith(message) for text in messages(compare(params(**changes)), "problem"))


def test_batches_that_cannot_be_shared():
    chosen = params(train_student__batch_size=4, train_student__accumulate=2)
    assert messages(compare(chosen), "problem") == []
    assert "8 processes × 2 parts" in messages(compare(chosen, num_processes=8), "problem")[-1]


def test_dist_with_a_clip_alone():
    chosen = params(soft_loss="dist", train_student__batch_size=1, train_teacher__batch_size=1)
    assert any("soft_loss dist" in text for text in messages(compare(chosen), "problem"))
    assert not any("soft_loss dist" in text for text in messages(compare(params(soft_loss="dist")), "problem"))


def test_weights_are_compared_with_the_network(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, tiny_recognizer(), class_names=("x", "y", "z"), trained_on={})
    group = compare(params(train_teacher__weights=str(path), train_teacher__width=8))
    assert any("does not fit r2plus1d_slim" in text for text in messages(group, "problem"))
    group = compare(params(train_teacher__weights=str(path), train_teacher__width=4))
    assert messages(group, "problem") == []
    assert any("tensors of model.safetensors loaded" in fact for fact in group.facts)


def test_weights_that_would_be_downloaded_are_told_of_and_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    chosen = params(teacher="r3d_18", train_teacher__width=None, train_teacher__weights="torchvision")
    group = compare(chosen)
    assert any("will download" in text for text in messages(group, "warning"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views__num_views": 1}, "from epoch 1 on the student sees the same crops again"),
        ({"views__num_views": 50}, "views of each video that no student sees"),
        ({"clip__size": 64}, "every clip is enlarged"),
        ({"fit_enhancer__weights": "some.pth"}, "has no weights: the file is not used"),
    ],
)
def test_what_is_allowed_but_rarely_meant(changes, message):
    group = compare(params(**changes))
    assert messages(group, "problem") == []
    assert any(message in text for text in messages(group, "warning"))
