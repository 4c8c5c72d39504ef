"""Articulated figures: eleven actions as motions of a skeleton in space.

A motion gives the paths of pelvis, hands and feet; two-bone inverse kinematics finds elbows and knees. A motion is
computed at once, as arrays over time. Axes of the body: x to its left, y up, z forward; metres. Axis letters: T frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SIDES = ("left", "right")
MOST_REACH = 0.995  # of the stretched limb: a knee never locks straight, so that the direction of its bend is defined


@dataclass(frozen=True)
class Body:
    """Proportions of one performer; lengths follow its height (shares after Winter 1990, table 4.1, rounded)."""

    height: float
    leg_share: float = 0.49
    bulk: float = 1.0

    @property
    def leg(self) -> float:
        """Hip to ankle, metres; thigh and shin are half of it each."""
        return self.leg_share * self.height

    @property
    def arm(self) -> float:
        """Shoulder to the middle of the hand, metres."""
        return 0.37 * self.height

    @property
    def torso(self) -> float:
        """Hip to shoulder, metres: what the legs leave."""
        return (0.78 - self.leg_share) * self.height

    @property
    def ankle(self) -> float:
        """Height of the ankle, metres."""
        return 0.04 * self.height

    def thick(self, share: float) -> float:
        """A radius, given as a share of the height, for this performer's build."""
        return share * self.height * self.bulk


@dataclass(frozen=True)
class Style:
    """How one performer moves in one clip. Times in seconds; `start` and `length` are those of a single event."""

    tempo: float = 1.0
    amplitude: float = 1.0
    phase: float = 0.0
    hunch: float = 0.0
    variant: float = 0.5
    start: float = 0.8
    length: float = 1.4
    sway: float = 0.02


@dataclass(frozen=True)
class Prop:
    """A thing of the action: held in a hand (`tilt` from upright) or standing at `place` of the world."""

    kind: str
    hand: int | None = None
    tilt: Array | None = None
    taken_at: int | None = None
    place: Array | None = None


@dataclass(frozen=True)
class Motion:
    """Where the body's ends go.

    root (T, 3): pelvis over the floor, x and z in metres, y in legs above the ankle; yaw, lean forward, roll, nod (T);
    hands (T, 2, 3): from the shoulder, in arms, x outward, turned with the body but not leaning with it;
    feet (T, 2, 3): from the root, in legs, x outward of the hip, y over the floor.
    """

    root: Array
    yaw: Array
    lean: Array
    roll: Array
    nod: Array
    hands: Array
    feet: Array
    props: tuple[Prop, ...] = ()


def rest(seconds: Array, style: Style) -> Motion:
    """Standing with hanging arms, breathing and swaying a little: the start of every action."""
    num_frames = len(seconds)
    zeros = np.zeros(num_frames)
    sway = style.sway * np.sin(2 * np.pi * (0.35 * seconds + style.phase))
    root = np.stack([sway, zeros + 0.985, zeros], axis=1)
    hands = np.tile(np.array([[0.14, -0.95, 0.1]] * 2), (num_frames, 1, 1))
    feet = np.tile(np.array([[0.04, 0.0, 0.0]] * 2), (num_frames, 1, 1))
    return Motion(root, zeros, zeros + style.hunch, 0.5 * sway, zeros + 0.5 * style.hunch, hands, feet)


def smoothstep(progress: Array) -> Array:
    """0 before 0, 1 after 1, smooth between (minimum-jerk polynomial of reaching movements)."""
    p = np.clip(progress, 0, 1)
    return np.asarray(p**3 * (10 - 15 * p + 6 * p**2))


def _event(seconds: Array, style: Style) -> Array:
    return smoothstep((seconds - style.start) * style.tempo / style.length)


def _plateau(cycles: Array, rise: float = 0.3, hold: float = 0.3) -> Array:
    """0 → 1 → 0 once a cycle: rises, holds, falls as slowly, then waits."""
    p = cycles % 1
    return smoothstep(p / rise) - smoothstep((p - rise - hold) / rise)


def _between(start: tuple[float, float, float], end: tuple[float, float, float], share: Array) -> Array:
    first, last = np.array(start), np.array(end)
    return np.asarray(first + share[:, None] * (last - first))


def drink(seconds: Array, style: Style) -> Motion:
    """A cup goes to the mouth, tilts with the head, and comes down."""
    motion = rest(seconds, style)
    lift = _plateau(0.36 * style.tempo * seconds + style.phase, 0.28, 0.3)
    hands = motion.hands.copy()
    hands[:, 1] = _between((0.02, -0.5 - 0.1 * style.variant, 0.5), (-0.25, 0.24, 0.27), lift)
    tipped = np.clip(lift - 0.6, 0, 1) / 0.4
    cup = Prop("cup", hand=1, tilt=-1.3 * tipped)
    return replace(motion, hands=hands, nod=motion.nod - 0.35 * tipped * style.amplitude, props=(cup,))


def pour(seconds: Array, style: Style) -> Motion:
    """A bottle is raised and tilted over the glass in the other hand."""
    motion = rest(seconds, style)
    lift = _plateau(0.36 * style.tempo * seconds + style.phase, 0.24, 0.42)
    hands = motion.hands.copy()
    hands[:, 0] = _between((-0.1, -0.62, 0.45), (-0.2, -0.55, 0.52), lift)
    hands[:, 1] = _between((0.1, -0.62, 0.4), (-0.1, 0.08 * style.amplitude - 0.1, 0.6), lift)
    bottle, glass = Prop("bottle", hand=1, tilt=1.9 * lift), Prop("glass", hand=0, tilt=0 * lift)
    return replace(motion, hands=hands, nod=motion.nod + 0.3, lean=motion.lean + 0.08, props=(bottle, glass))


def wave(seconds: Array, style: Style) -> Motion:
    """A raised hand swings from side to side; it goes up at the beginning, or is up already."""
    motion = rest(seconds, style)
    swing = np.sin(2 * np.pi * (1.25 * style.tempo * seconds + style.phase))
    raised = smoothstep((seconds + 1.2 * (style.variant - 0.3)) / 0.6)
    height = 0.45 + 0.35 * style.variant
    high = np.stack([0.32 + 0.34 * style.amplitude * swing, height - 0.1 * np.abs(swing), 0 * swing + 0.3], axis=1)
    hands = motion.hands.copy()
    hands[:, 1] += raised[:, None] * (high - hands[:, 1])
    return replace(motion, hands=hands, roll=motion.roll + 0.04 * swing * style.amplitude)


def push(seconds: Array, style: Style) -> Motion:
    """Both hands shove a box that slides; the body leans into it and steps after it."""
    motion = rest(seconds, style)
    rate = 0.55 * style.tempo
    cycles = rate * seconds + style.phase
    feet, bob = _steps(cycles, reach=0.24 * style.amplitude, lift=0.07, stance=0.6)
    thrust = 0.5 + 0.5 * np.sin(4 * np.pi * cycles)
    travel = 0.42 * style.amplitude * (seconds + 0.22 * np.sin(4 * np.pi * cycles) / (4 * np.pi * rate))
    hands = motion.hands.copy()
    hands[:, :] = _between((-0.02, -0.28, 0.62), (-0.02, -0.2, 0.84), thrust)[:, None]
    feet[..., 2] -= 0.28
    root = motion.root + np.stack([0 * seconds, bob - 0.07, travel], axis=1)
    lean = motion.lean + 0.34 + 0.1 * thrust * style.amplitude
    box = Prop("box", place=np.stack([0 * seconds, 0 * seconds, travel + 0.93 + 0.09 * thrust], axis=1))
    return replace(motion, root=root, hands=hands, feet=feet, lean=lean, props=(box,))


def jump(seconds: Array, style: Style) -> Motion:
    """Crouch, leap with swinging arms, land; again and again."""
    motion = rest(seconds, style)
    p = (0.72 * style.tempo * seconds + style.phase) % 1
    flight = np.clip((p - 0.42) / 0.36, 0, 1)
    height = 4 * flight * (1 - flight) * (0.3 + 0.22 * style.variant) * style.amplitude
    crouch = _plateau(np.clip(p / 0.42, 0, 0.999), 0.5, 0.0) + 0.6 * _plateau(
        np.clip((p - 0.78) / 0.22, 0, 0.999), 0.5, 0.0
    )
    swing = smoothstep((p - 0.25) / 0.3) - smoothstep((p - 0.6) / 0.3)
    back = crouch * (p < 0.45)
    hands = motion.hands.copy()
    hands += swing[:, None, None] * (np.array([0.25, 0.45 + 0.4 * style.variant, 0.45]) - hands)
    hands[..., 2] -= 0.45 * back[:, None]
    feet = motion.feet.copy()
    feet[..., 1] = (height * (1.0 + 0.35 * style.variant))[:, None]
    root = motion.root + np.stack([0 * p, height - 0.26 * crouch * style.amplitude, 0 * p], axis=1)
    return replace(motion, root=root, hands=hands, feet=feet, lean=motion.lean + 0.45 * crouch)


def pick(seconds: Array, style: Style) -> Motion:
    """Bend or squat down, take a thing from the floor, come up with it."""
    motion = rest(seconds, style)
    way = 0.65 * style.length / style.tempo  # seconds down; as many up, after a moment
    start = 0.6 * style.start
    down = smoothstep((seconds - start) / way) - smoothstep((seconds - start - 1.25 * way) / way)
    squat = 0.3 + 0.25 * style.variant
    hands = motion.hands.copy()
    after = smoothstep((seconds - start - way) / way)
    hands[:, 1] += down[:, None] * (np.array([0.0, -0.99, 0.16]) - hands[:, 1])
    hands[:, 1] += (after * (1 - down))[:, None] * (np.array([0.05, -0.6, 0.45]) - hands[:, 1])
    hands[:, 0] += down[:, None] * (np.array([0.1, -0.6, 0.5]) - hands[:, 0])
    root = motion.root + np.stack([0 * down, -squat * down, -0.22 * down], axis=1)
    lean = motion.lean + (1.45 - 0.8 * style.variant) * down
    feet = motion.feet.copy()
    feet[:, 0, 2], feet[:, 1, 2] = 0.1, -0.08
    thing = Prop("thing", hand=1, tilt=0 * down, taken_at=int(np.argmax(down > 0.97)) or int(np.argmax(down)))
    return replace(motion, root=root, hands=hands, feet=feet, lean=lean, nod=motion.nod + 0.2 * down, props=(thing,))


def sit(seconds: Array, style: Style) -> Motion:
    """From standing before a chair down onto it."""
    return _seated(seconds, style, _event(seconds, style))


def stand(seconds: Array, style: Style) -> Motion:
    """From sitting on a chair up to standing."""
    return _seated(seconds, style, 1 - _event(seconds, style))


def _seated(seconds: Array, style: Style, seated: Array) -> Motion:
    motion = rest(seconds, style)
    effort = np.sin(np.pi * seated)
    hands = motion.hands.copy()
    hands += seated[:, None, None] * (np.array([0.0, -0.62, 0.5]) - hands)
    hands[..., 2] += (0.35 * effort * style.amplitude)[:, None]
    root = motion.root + np.stack([0 * seated, -0.49 * seated, -0.46 * smoothstep(1.15 * seated)], axis=1)
    lean = motion.lean * (1 - seated) + 0.62 * effort * style.amplitude - 0.06 * seated
    chair = Prop("chair", place=np.zeros((len(seconds), 3)) + np.array([0, 0, -0.46]))
    return replace(motion, root=root, hands=hands, lean=lean, nod=motion.nod + 0.2 * effort, props=(chair,))


def turn(seconds: Array, style: Style) -> Motion:
    """Turn around on the spot with small steps."""
    motion = rest(seconds, style)
    turned = smoothstep((seconds - 0.6 * style.start) / (1.6 * style.length / style.tempo))
    moving = np.clip(6 * turned * (1 - turned), 0, 1)
    cycles = 1.1 * style.tempo * seconds + style.phase
    feet = motion.feet.copy()
    for side in (0, 1):
        lift = np.clip(np.sin(2 * np.pi * (cycles + side / 2)), 0, 1) * moving
        feet[:, side, 1] = 0.1 * lift * style.amplitude
        feet[:, side, 2] = 0.08 * np.sin(2 * np.pi * (cycles + side / 2)) * moving
    hands = motion.hands.copy()
    hands[..., 0] += (0.12 * moving)[:, None]
    roll = motion.roll + 0.05 * moving * np.sin(2 * np.pi * cycles)
    return replace(motion, yaw=(np.pi * (0.75 + 0.6 * style.variant)) * turned, feet=feet, hands=hands, roll=roll)


def walk(seconds: Array, style: Style) -> Motion:
    """Walk on, arms swinging against the legs."""
    return _gait(
        seconds, style, rate=0.9, reach=0.3, lift=0.09, stance=0.58, lean=0.04, hand=(0.1, -0.94, 0.06), swing=0.3
    )


def run(seconds: Array, style: Style) -> Motion:
    """Run: quicker, leaning, with bent arms and a flight phase."""
    return _gait(
        seconds, style, rate=1.35, reach=0.4, lift=0.3, stance=0.4, lean=0.22, hand=(0.08, -0.55, 0.32), swing=0.36
    )


def _gait(
    seconds: Array,
    style: Style,
    *,
    rate: float,
    reach: float,
    lift: float,
    stance: float,
    lean: float,
    hand: tuple[float, float, float],
    swing: float,
) -> Motion:
    motion = rest(seconds, style)
    rate *= style.tempo
    reach *= style.amplitude
    cycles = rate * seconds + style.phase
    feet, bob = _steps(cycles, reach=reach, lift=lift * style.amplitude, stance=stance)
    speed = 2 * reach * rate / stance * 0.83  # legs are about 0.83 m: the stance foot stays where it is
    middle = (seconds[0] + seconds[-1]) / 2
    hands = np.tile(np.asarray(hand), (len(seconds), 2, 1))
    for side in (0, 1):
        forward = -np.cos(2 * np.pi * (cycles + side / 2)) * style.amplitude
        hands[:, side, 2] += swing * forward
        hands[:, side, 1] += 0.12 * np.abs(forward)
        hands[:, side, 0] -= 0.1 * np.clip(forward, 0, 1)
    root = motion.root + np.stack([0 * seconds, bob - 0.03, speed * (seconds - middle)], axis=1)
    return replace(motion, root=root, hands=hands, feet=feet, lean=motion.lean + lean)


def _steps(cycles: Array, *, reach: float, lift: float, stance: float) -> tuple[Array, Array]:
    """Feet (T, 2, 3) of a gait and the pelvis's rise: on the floor for `stance` of a cycle, then swung forward."""
    feet = np.zeros((len(cycles), 2, 3))
    feet[..., 0] = 0.02
    for side in (0, 1):
        p = (cycles + side / 2) % 1
        swinging = np.clip((p - stance) / (1 - stance), 0, 1)
        feet[:, side, 2] = np.where(p < stance, reach * (1 - 2 * p / stance), reach * (2 * smoothstep(swinging) - 1))
        feet[:, side, 1] = lift * np.sin(np.pi * swinging)
        feet[:, side, 2] -= 0.5 * lift * np.sin(np.pi * swinging)  # the heel rises behind
    bob = (0.02 + 0.12 * max(0.0, 0.5 - stance)) * np.cos(4 * np.pi * cycles + np.pi * (2 - 2 * stance))
    return feet, bob


ACTIONS: dict[str, Callable[[Array, Style], Motion]] = {
    action.__name__.capitalize(): action
    for action in (drink, jump, pick, pour, push, run, sit, stand, turn, walk, wave)
}


def skeleton(body: Body, motion: Motion) -> dict[str, Array]:
    """Joints of the whole motion, by name, each (T, 3) in metres of the world; `facing` is the forward direction."""
    sin, cos = np.sin(motion.yaw), np.cos(motion.yaw)
    left = np.stack([cos, 0 * cos, -sin], axis=1)
    forward = np.stack([sin, 0 * sin, cos], axis=1)
    up = np.array([0.0, 1.0, 0.0])
    pelvis = motion.root * np.array([1, body.leg, 1]) + body.ankle * up
    spine = np.cos(motion.lean)[:, None] * up + np.sin(motion.lean)[:, None] * forward
    spine = _unit(spine + np.sin(motion.roll)[:, None] * left)
    neck = pelvis + 1.02 * body.torso * spine
    gaze = motion.lean * 0.5 + motion.nod  # the neck takes half of the lean back
    upright = np.cos(gaze)[:, None] * up + np.sin(gaze)[:, None] * forward
    joints = {
        "pelvis": pelvis,
        "neck": neck,
        "chest": pelvis + 0.78 * body.torso * spine,
        "head": neck + 0.085 * body.height * upright,
        "crown": neck + 0.125 * body.height * upright,
        "facing": forward,
        "face": np.cos(gaze)[:, None] * forward - np.sin(gaze)[:, None] * up,
    }
    floor = motion.root * np.array([1, 0, 1])
    for index, side in enumerate(SIDES):
        outward = left if side == "left" else -left
        shoulder = neck - 0.03 * body.height * spine + 0.115 * body.height * outward
        hip = pelvis + 0.055 * body.height * outward
        reach = motion.hands[:, index] * body.arm
        hand = shoulder + reach[:, :1] * outward + reach[:, 1:2] * up + reach[:, 2:] * forward
        step = motion.feet[:, index] * body.leg
        ankle = floor + (0.055 * body.height + step[:, :1]) * outward + (step[:, 1:2] + body.ankle) * up
        ankle = ankle + step[:, 2:] * forward
        elbow_way = 0.45 * outward - 0.7 * up - 0.55 * forward
        elbow, hand = _bend(shoulder, hand, 0.5 * body.arm, 0.5 * body.arm, elbow_way)
        knee, ankle = _bend(hip, ankle, 0.5 * body.leg, 0.5 * body.leg, forward + 0.12 * outward)
        toe = ankle + 0.13 * body.height * forward - 0.5 * body.ankle * up
        named = {"shoulder": shoulder, "elbow": elbow, "hand": hand, "hip": hip, "knee": knee, "ankle": ankle}
        joints |= {f"{side}_{name}": joint for name, joint in (named | {"toe": toe}).items()}
    return joints


def _bend(root: Array, target: Array, upper: float, lower: float, way: Array) -> tuple[Array, Array]:
    """Two-bone inverse kinematics: the middle joint, bent towards `way`, and the end, within reach."""
    aim = target - root
    distance = np.linalg.norm(aim, axis=1, keepdims=True)
    direction = aim / np.maximum(distance, 1e-6)
    distance = np.clip(distance, 0.3 * (upper + lower), MOST_REACH * (upper + lower))
    along = (upper**2 - lower**2 + distance**2) / (2 * distance)
    aside = np.sqrt(np.maximum(upper**2 - along**2, 0))
    across = _unit(way - np.sum(way * direction, axis=1, keepdims=True) * direction)
    return root + along * direction + aside * across, root + distance * direction


def _unit(vector: Array) -> Array:
    return np.asarray(vector / np.maximum(np.linalg.norm(vector, axis=1, keepdims=True), 1e-6))
