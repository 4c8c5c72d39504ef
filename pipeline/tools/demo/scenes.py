"""Scenes of the demo: a figure dressed in capsules, seen through a pinhole camera before a painted backdrop.

Everything is drawn at SUPERSAMPLING times the size and averaged down. Colours are RGB, 0-255, in daylight.
Axis letters: T frames, P parts, K outline points, H, W, C.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.data.frames import Frame
from pipeline.tools.demo.figures import Array, Body, Motion, Prop, skeleton

Colour = tuple[float, float, float]

SUPERSAMPLING = 2
FRACTION_BITS = 3  # of OpenCV's fixed-point coordinates
NEAREST = 0.4  # metres: what comes closer to the camera is drawn as if it were here
ARC = np.linspace(-np.pi / 2, np.pi / 2, 7)


@dataclass(frozen=True)
class Look:
    """Clothes and hair of a performer."""

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    shoes: Colour
    long_sleeves: bool
    long_hair: bool
    prop: Colour


@dataclass(frozen=True)
class Lens:
    """A pinhole camera that looks at the performer.

    azimuth 0 sees the front; tilt looks down; metres and radians. `figure_share` of the frame's height is what 1.7 m
    take at `distance`. `shift` (2) moves the performer in the frame (shares of it), `shake` (T, 2) likewise over time;
    `follow` is the part of the performer's way that the camera goes along with.
    """

    azimuth: float
    tilt: float
    distance: float
    figure_share: float
    shift: Array
    shake: Array
    follow: float

    def project(self, points: Array, path: Array, height: int, width: int) -> tuple[Array, Array, Array]:
        """Points (T, N, 3) to pixels (T, N, 2), their depth (T, N) and pixels a metre there (T, N)."""
        right, upward, ahead = self._axes()
        seen = points - (self._target(path))[:, None]
        depth = np.maximum(seen @ ahead + self.distance, NEAREST)
        focal = self.figure_share * height * self.distance / 1.7
        centre = np.array([width, height]) * (0.5 + self.shift + self.shake)[:, None]
        offset = np.stack([seen @ right, -(seen @ upward)], axis=-1)
        pixels: Array = centre + focal * offset / depth[..., None]
        return pixels, depth, focal / depth

    def pan(self, path: Array, height: int, width: int, wall: float) -> Array:
        """How far (T, 2) a wall `wall` metres behind the performer moves in the frame, in pixels."""
        right, _, _ = self._axes()
        moved = (self._target(path) - np.array([0, 0.9, 0])) @ right
        focal = self.figure_share * height * self.distance / 1.7
        across = -focal * moved / (self.distance + wall)
        return np.asarray(np.stack([across, 0 * across], axis=1) + self.shake * np.array([width, height]))

    def _target(self, path: Array) -> Array:
        return np.asarray(self.follow * path * np.array([1, 0, 1]) + np.array([0, 0.9, 0]))

    def _axes(self) -> tuple[Array, Array, Array]:
        sin, cos = np.sin(self.azimuth), np.cos(self.azimuth)
        right = np.array([cos, 0, -sin])
        level = np.array([-sin, 0, -cos])
        ahead = np.cos(self.tilt) * level - np.sin(self.tilt) * np.array([0, 1, 0])
        return right, np.cross(right, ahead), ahead


@dataclass
class Parts:
    """What is drawn of a scene, over all frames: capsules (two ends, two radii) and four-cornered faces."""

    ends: list[tuple[Array, Array, float, float]]
    end_colours: list[Colour]
    faces: list[Array]
    face_colours: list[Colour]

    def capsule(self, start: Array, end: Array, radii: tuple[float, float], colour: Colour) -> None:
        """Add a capsule between two tracks (T, 3); radii in metres."""
        self.ends.append((start, end, *radii))
        self.end_colours.append(colour)

    def cuboid(self, centre: Array, size: tuple[float, float, float], colour: Colour) -> None:
        """Add an upright box around a track (T, 3); size in metres along x, y, z. Faces are shaded by direction."""
        corners = {sign: centre + 0.5 * np.array(size) * np.array(sign) for sign in product((-1, 1), repeat=3)}
        for axis, light in ((0, 0.75), (1, 1.0), (2, 0.88)):
            for direction in (-1, 1):
                others = [a for a in range(3) if a != axis]
                ring = []
                for first, second in ((-1, -1), (-1, 1), (1, 1), (1, -1)):
                    sign = [0, 0, 0]
                    sign[axis], sign[others[0]], sign[others[1]] = direction, first, second
                    ring.append(corners[sign[0], sign[1], sign[2]])
                self.faces.append(np.stack(ring, axis=1))
                self.face_colours.append(_shade(colour, light))


def dressed(body: Body, look: Look, motion: Motion) -> Parts:
    """The figure and its props as parts."""
    joints = skeleton(body, motion)
    parts = Parts([], [], [], [])
    for prop in motion.props:
        _add_prop(parts, prop, joints, look, body)
    forearm = look.shirt if look.long_sleeves else look.skin
    for side in ("left", "right"):
        at = {name.removeprefix(f"{side}_"): joint for name, joint in joints.items() if name.startswith(side)}
        thick = body.thick
        parts.capsule(at["hip"], at["knee"], (thick(0.052), thick(0.037)), look.trousers)
        parts.capsule(at["knee"], at["ankle"], (thick(0.036), thick(0.026)), _shade(look.trousers, 0.94))
        parts.capsule(at["ankle"] * [1, 0.9, 1], at["toe"], (thick(0.028), thick(0.02)), look.shoes)
        parts.capsule(at["shoulder"], at["elbow"], (thick(0.034), thick(0.027)), _shade(look.shirt, 0.9))
        parts.capsule(at["elbow"], at["hand"], (thick(0.026), thick(0.019)), _shade(forearm, 0.97))
        parts.capsule(at["hand"], at["hand"] + 0.1 * (at["hand"] - at["elbow"]), (thick(0.025),) * 2, look.skin)
    left, right = (0.85 * joints[f"{side}_shoulder"] + 0.15 * joints["chest"] for side in ("left", "right"))
    parts.capsule(left, right, (body.thick(0.046),) * 2, look.shirt)
    parts.capsule(joints["chest"], joints["pelvis"], (body.thick(0.085), body.thick(0.074)), look.shirt)
    parts.capsule(joints["left_hip"], joints["right_hip"], (body.thick(0.056),) * 2, look.trousers)
    parts.capsule(joints["neck"], joints["head"], (0.03 * body.height,) * 2, _shade(look.skin, 0.85))
    behind = -0.016 * body.height * joints["face"]
    skull = (0.05 * body.height, 0.054 * body.height)
    parts.capsule(joints["head"] - behind, joints["crown"] - behind, skull, look.skin)
    nape = joints["head"] if look.long_hair else joints["crown"]
    parts.capsule(nape + 2 * behind, joints["crown"] + 1.4 * behind, (0.055 * body.height,) * 2, look.hair)
    return parts


def _add_prop(parts: Parts, prop: Prop, joints: dict[str, Array], look: Look, body: Body) -> None:
    if prop.place is not None:
        _add_furniture(parts, prop.kind, prop.place, look)
        return
    hand = joints[("left_hand", "right_hand")[prop.hand or 0]].copy()
    if prop.taken_at is not None:
        hand[: prop.taken_at] = hand[prop.taken_at]
        parts.cuboid(hand - np.array([0, 0.04, 0]), (0.2, 0.16, 0.2), look.prop)
        return
    tilt = np.zeros(len(hand)) if prop.tilt is None else prop.tilt
    left = np.cross(np.array([0.0, 1.0, 0.0]), joints["facing"])
    # positive tilts lean to the body's left (a bottle in the right hand pours there), negative ones to the face
    way = np.where(tilt[:, None] > 0, left, -joints["facing"])
    axis = np.cos(tilt)[:, None] * np.array([0, 1.0, 0]) + np.abs(np.sin(tilt))[:, None] * way
    hand = hand + 0.03 * joints["facing"]
    if prop.kind == "cup":
        parts.capsule(hand - 0.03 * axis, hand + 0.09 * axis, (0.045, 0.055), look.prop)
    elif prop.kind == "glass":
        parts.capsule(hand, hand + 0.1 * axis, (0.04, 0.05), (205, 225, 232))
    else:
        parts.capsule(hand - 0.1 * axis, hand + 0.1 * axis, (0.055, 0.055), look.prop)
        parts.capsule(hand + 0.1 * axis, hand + 0.24 * axis, (0.03, 0.024), _shade(look.prop, 1.2))
        mouth = hand + 0.24 * axis
        drop = np.clip(np.abs(tilt)[:, None] - 1.2, 0, 0.4) * np.array([0, -0.6, 0])
        parts.capsule(mouth, mouth + drop, (0.014, 0.012), (190, 215, 235))


def _add_furniture(parts: Parts, kind: str, place: Array, look: Look) -> None:
    if kind == "box":
        parts.cuboid(place + np.array([0, 0.55, 0.3]), (0.7, 1.1, 0.6), look.prop)
        parts.cuboid(place + np.array([0, 0.78, 0.3]), (0.715, 0.05, 0.615), _shade(look.prop, 0.6))
        return
    parts.cuboid(place + np.array([0, 0.4, -0.02]), (0.46, 0.06, 0.46), look.prop)
    parts.cuboid(place + np.array([0, 0.72, -0.25]), (0.46, 0.42, 0.05), _shade(look.prop, 0.85))
    for x, z in product((-0.2, 0.2), (-0.22, 0.18)):
        foot = place + np.array([x, 0, z])
        parts.capsule(foot, foot + np.array([0, 0.4, 0]), (0.025, 0.025), _shade(look.prop, 0.6))


def draw(parts: Parts, path: Array, lens: Lens, backdrop: Backdrop, height: int, width: int) -> Iterator[Frame]:
    """Frames (H, W, 3) of the scene, one after the other; `path` (T, 3) is where the performer goes."""
    tall, wide = SUPERSAMPLING * height, SUPERSAMPLING * width
    outlines, depths = _outlines(parts, path, lens, tall, wide)
    colours = parts.end_colours + parts.face_colours
    dark = [_shade(colour, 0.68) for colour in parts.end_colours] + parts.face_colours
    pans = np.rint(lens.pan(path, tall, wide, backdrop.distance)).astype(int)
    feet, _, scale = lens.project((path * np.array([1, 0, 1]))[:, None], path, tall, wide)
    for frame in range(len(path)):
        canvas = backdrop.behind(frame, pans[frame], tall, wide)
        radius = 0.3 * scale[frame, 0]
        _shadow(canvas, feet[frame, 0], radius, radius * (0.1 + 0.6 * np.sin(lens.tilt)))
        for part in np.argsort(-depths[frame], kind="stable"):
            outline = outlines[frame, part]
            cv2.fillConvexPoly(canvas, outline[0], dark[part], cv2.LINE_AA, FRACTION_BITS)
            if part < len(parts.ends):
                cv2.fillConvexPoly(canvas, outline[1], colours[part], cv2.LINE_AA, FRACTION_BITS)
        backdrop.before(canvas, pans[frame])
        # at factor 2 this is the mean of four
        yield np.asarray(cv2.resize(canvas, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def _outlines(parts: Parts, path: Array, lens: Lens, height: int, width: int) -> tuple[NDArray[np.int32], Array]:
    """Polygons (T, P, 2, K, 2) in fixed-point pixels (the second of a capsule is its lit side) and depths (T, P)."""
    starts = np.stack([start for start, _, _, _ in parts.ends], axis=1)
    ends = np.stack([end for _, end, _, _ in parts.ends], axis=1)
    radii = np.array([radii for _, _, *radii in parts.ends])
    a, depth_a, scale_a = lens.project(starts, path, height, width)
    b, depth_b, scale_b = lens.project(ends, path, height, width)
    way = b - a
    angle = np.arctan2(way[..., 1], way[..., 0])[..., None]
    shapes = []
    for share, aside in ((1.0, 0.0), (0.62, -0.26)):  # light comes from the upper left
        rims = []
        for centre, scale, radius, turn in ((a, scale_a, radii[:, 0], np.pi), (b, scale_b, radii[:, 1], 0.0)):
            pixels = (scale * radius)[..., None]
            arc = angle + turn + ARC
            rim = np.stack([np.cos(arc), np.sin(arc)], axis=-1) * share * pixels[..., None]
            rims.append(centre[..., None, :] + rim + aside * pixels[..., None])
        shapes.append(np.concatenate(rims, axis=2))
    capsules = np.stack(shapes, axis=2)
    depths = 0.5 * (depth_a + depth_b)
    if parts.faces:
        num_frames, num_faces = len(path), len(parts.faces)
        corners = np.stack(parts.faces, axis=1).reshape(num_frames, 4 * num_faces, 3)
        pixels, face_depths, _ = lens.project(corners, path, height, width)
        ring = np.repeat(pixels.reshape(num_frames, num_faces, 1, 4, 2), 2, axis=2)
        points = capsules.shape[3]
        ring = np.concatenate([ring, np.repeat(ring[..., -1:, :], points - 4, axis=3)], axis=3)
        capsules = np.concatenate([capsules, ring], axis=1)
        depths = np.concatenate([depths, face_depths.reshape(num_frames, num_faces, 4).mean(axis=2)], axis=1)
    return np.rint(capsules * 2**FRACTION_BITS).astype(np.int32), depths


def _shadow(canvas: Frame, centre: Array, across: float, along: float) -> None:
    """Darken the floor under the figure by a soft ellipse."""
    extent = 1.5 * np.array([across, along])
    left, top = (int(v) for v in np.floor(centre - extent))
    right, bottom = (int(v) for v in np.ceil(centre + extent))
    top, left = max(top, 0), max(left, 0)
    patch = canvas[top : max(bottom, 0), left : max(right, 0)]
    if not patch.size:
        return
    y, x = np.ogrid[top : top + patch.shape[0], left : left + patch.shape[1]]
    far = ((x - centre[0]) / across) ** 2 + ((y - centre[1]) / max(along, 1)) ** 2
    patch[:] = (patch * (1 - 0.45 * np.exp(-2 * far))[..., None]).astype(np.uint8)


def _shade(colour: Colour, light: float) -> Colour:
    red, green, blue = (min(255.0, light * value) for value in colour)
    return red, green, blue


@dataclass(frozen=True)
class Backdrop:
    """A painted background, periodic in width, with what moves in it and what stands before the performer.

    `wall` (H', W', 3) is larger than the frame: `margin` rows above and below it. `passer` (T, 2) is the way of
    somebody far behind, in shares of the frame; `pillar` is an upright thing before the performer: left, width and top
    (shares of the frame), colour.
    """

    wall: Frame
    margin: int
    distance: float
    passer: Array | None = None
    pillar: tuple[float, float, float, Colour] | None = None

    def behind(self, frame: int, pan: NDArray[np.int_], height: int, width: int) -> Frame:
        """A canvas (H, W, 3) with all that is behind the performer."""
        period = self.wall.shape[1] - width
        left = int(-pan[0]) % period
        top = int(np.clip(self.margin - pan[1], 0, 2 * self.margin))
        canvas = self.wall[top : top + height, left : left + width].copy()
        if self.passer is not None:
            x, y = self.passer[frame] * [width, height] + pan
            tall, colour, step = 0.3 * height, (62, 58, 66), 0.05 * height * np.sin(1.1 * frame)
            for start, end, thickness in (
                ((x, y), (x, y - 0.3 * tall), 0.2),
                ((x, y), (x + step, y + 0.45 * tall), 0.1),
                ((x, y), (x - step, y + 0.45 * tall), 0.1),
                ((x, y - 0.48 * tall), (x, y - 0.5 * tall), 0.17),
            ):
                ends = [(int(px), int(py)) for px, py in (start, end)]
                cv2.line(canvas, ends[0], ends[1], colour, max(2, int(thickness * tall)), cv2.LINE_AA)
        return canvas

    def before(self, canvas: Frame, pan: NDArray[np.int_]) -> None:
        """Draw what stands before the performer; near things move more with the camera than the wall does."""
        if self.pillar is None:
            return
        height, width = canvas.shape[:2]
        place, across, top, colour = self.pillar
        left = int(place * width + 1.5 * pan[0])
        right, upper = left + int(across * width), int(top * height)
        cv2.rectangle(canvas, (left, upper), (right, height), _shade(colour, 0.8), cv2.FILLED)
        cv2.rectangle(canvas, (left, upper), (left + (right - left) // 2, height), colour, cv2.FILLED)
