from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tools.demo.figures import ACTIONS, SIDES, Body, Style, skeleton

SECONDS = np.arange(45) / 15
BODY = Body(height=1.7)
styles = st.builds(
    Style,
    tempo=st.floats(0.7, 1.4),
    amplitude=st.floats(0.6, 1.4),
    phase=st.floats(0, 1),
    hunch=st.floats(-0.05, 0.15),
    variant=st.floats(0, 1),
    start=st.floats(0.1, 1.5),
    length=st.floats(1.0, 1.6),
)


@pytest.mark.parametrize("action", ACTIONS)
@settings(max_examples=12)
@given(style=styles)
def test_bones_keep_their_length(action: str, style: Style):
    joints = skeleton(BODY, ACTIONS[action](SECONDS, style))
    for side in SIDES:
        for start, end, length in (
            ("shoulder", "elbow", BODY.arm / 2),
            ("elbow", "hand", BODY.arm / 2),
            ("hip", "knee", BODY.leg / 2),
            ("knee", "ankle", BODY.leg / 2),
        ):
            bone = np.linalg.norm(joints[f"{side}_{end}"] - joints[f"{side}_{start}"], axis=1)
            assert bone == pytest.approx(length, rel=1e-6), (start, end)


@pytest.mark.parametrize("action", ACTIONS)
@settings(max_examples=12)
@given(style=styles)
def test_nothing_moves_by_jumps(action: str, style: Style):
    joints = skeleton(BODY, ACTIONS[action](SECONDS, style))
    for name, track in joints.items():
        assert np.isfinite(track).all()
        metres_per_second = np.linalg.norm(np.diff(track, axis=0), axis=1).max() * 15
        assert metres_per_second < 15, name


@pytest.mark.parametrize("action", ACTIONS)
@settings(max_examples=12)
@given(style=styles)
def test_feet_stay_above_the_floor(action: str, style: Style):
    joints = skeleton(BODY, ACTIONS[action](SECONDS, style))
    for side in SIDES:
        assert joints[f"{side}_ankle"][:, 1].min() > -0.02


@settings(max_examples=12)
@given(style=styles)
def test_standing_up_is_sitting_down_backwards(style: Style):
    style = replace(style, sway=0.0)
    end = SECONDS[-1] - style.start - style.length / style.tempo
    sitting = skeleton(BODY, ACTIONS["Sit"](SECONDS, style))
    standing = skeleton(BODY, ACTIONS["Stand"](SECONDS, replace(style, start=end)))
    for name in ("neck", "pelvis", "left_knee", "right_knee"):
        assert standing[name][::-1] == pytest.approx(sitting[name], abs=1e-6)


def test_running_is_faster_and_flies():
    walk, run = (ACTIONS[name](SECONDS, Style()) for name in ("Walk", "Run"))
    assert np.ptp(run.root[:, 2]) > 1.8 * np.ptp(walk.root[:, 2])
    on_floor = [(motion.feet[..., 1] < 1e-9).any(axis=1) for motion in (walk, run)]
    assert on_floor[0].all()
    assert not on_floor[1].all()


def test_the_cup_reaches_the_mouth():
    joints = skeleton(BODY, ACTIONS["Drink"](SECONDS, Style()))
    assert np.linalg.norm(joints["right_hand"] - joints["head"], axis=1).min() < 0.25


def test_the_hand_reaches_down_to_the_floor_and_brings_the_thing_up():
    motion = ACTIONS["Pick"](SECONDS, Style())
    hand = skeleton(BODY, motion)["right_hand"][:, 1]
    taken = motion.props[0].taken_at
    assert taken is not None
    assert hand[taken] < 0.35
    assert hand[-1] > hand[taken] + 0.3
