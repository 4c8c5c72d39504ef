"""Views: everything that turns a video into one clip, and the one function that applies them.

A view depends only on its name, (seed, purpose, video, number), never on the process or the order in which it is drawn.
Dark and enhanced frames have the same geometry: one view shows teacher and student the same crop, and only the light
differs.

A view may also be a blend of two videos, all over (mixup) or in a box (CutMix): then both are cut and resized as any
view is, and blended as uint8 clips, rounded once.

Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018; Yun et al., "CutMix: Regularization strategy to
train strong classifiers with localizable features", ICCV 2019.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline.core.digest import digest_uint64

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pipeline.core.params import ClipParams, ViewsParams
    from pipeline.data.frame_store import FrameStore

# Changes when the same name would draw another view; part of every artifact's view policy.
VIEW_POLICY_VERSION = 1


@dataclass(frozen=True)
class View:
    """First frame, frames from one to the next, a box in pixels of the stored frames, and whether it is mirrored."""

    first_frame: int
    frame_stride: int
    top: int
    left: int
    height: int
    width: int
    flip: int

    def __post_init__(self) -> None:
        wrong = (
            min(self.first_frame, self.top, self.left) < 0
            or min(self.frame_stride, self.height, self.width) < 1
            or self.flip not in (0, 1)
        )
        if wrong:
            raise ValueError(f"not a view: {self}")

    def row(self) -> tuple[int, ...]:
        """The seven numbers in the order of the fields, as stores keep them."""
        return astuple(self)


NUM_VIEW_FIELDS = len(fields(View))

FULL_WEIGHT = 256  # weights are whole numbers of it: exact


@dataclass(frozen=True)
class Blend:
    """What a view shows of another video: `view` of `partner`, in a box of the clip.

    There the view's own video has `weight` of FULL_WEIGHT, outside all. The box is in pixels of the clip that the views
    were drawn for: the whole clip for mixup; with the weight 0 it is CutMix's.
    """

    partner: str
    view: View
    weight: int
    top: int
    left: int
    height: int
    width: int

    def __post_init__(self) -> None:
        if not (0 <= self.weight < FULL_WEIGHT and min(self.top, self.left) >= 0 and min(self.height, self.width) > 0):
            raise ValueError(f"not a blend: {self}")

    def row(self) -> tuple[int, ...]:
        """The partner's view, the weight and the box, as stores keep them."""
        return (*self.view.row(), self.weight, self.top, self.left, self.height, self.width)

    def own_share(self, size: int) -> float:
        """How much of the clip, of that size, is the view's own video's."""
        return 1 - (FULL_WEIGHT - self.weight) * self.height * self.width / (FULL_WEIGHT * size**2)


NUM_BLEND_FIELDS = NUM_VIEW_FIELDS + 5


def blend_of_row(partner: str, row: Sequence[int]) -> Blend:
    """The blend of these numbers."""
    return Blend(partner, View(*row[:NUM_VIEW_FIELDS]), *row[NUM_VIEW_FIELDS:])


@dataclass(frozen=True)
class BlendedView:
    """A view of a video that shows another one as well."""

    own: View
    blend: Blend

    def row(self) -> tuple[int, ...]:
        """The numbers of both."""
        return (*self.own.row(), *self.blend.row())


AnyView = View | BlendedView

# For each video the one that each of its views is blended with, None where it is no blend
Partners = Mapping[str, tuple[str | None, ...]]
NOT_MIXED: Partners = {}


def draw_view(
    shape_THW: tuple[int, int, int],
    clip: ClipParams,
    views: ViewsParams,
    *,
    seed: int,
    purpose: str,
    video_id: str,
    number: int,
) -> View:
    """Draw a random view of a video: when it starts, a crop of random area and aspect, mirrored half of the time."""
    rng = np.random.default_rng([seed, digest_uint64(purpose.encode(), b"\0", video_id.encode()), number])
    num_frames, frame_height, frame_width = shape_THW
    stride = _fitting_stride(num_frames, clip)
    last_start = max(num_frames - 1 - (clip.num_frames - 1) * stride, 0)
    start = int(rng.integers(last_start + 1))
    area = rng.uniform(views.min_scale, 1.0) * frame_height * frame_width
    log_aspect = float(np.log(views.max_aspect))
    aspect = float(np.exp(rng.uniform(-log_aspect, log_aspect)))
    area = min(area, frame_height**2 * aspect, frame_width**2 / aspect)  # the largest box of this aspect that fits
    height = min(frame_height, max(1, round(float(np.sqrt(area / aspect)))))
    width = min(frame_width, max(1, round(float(np.sqrt(area * aspect)))))
    top = int(rng.integers(frame_height - height + 1))
    left = int(rng.integers(frame_width - width + 1))
    mirrored = int(rng.integers(2))  # drawn in any case: the flag must not shift the stream
    return View(start, stride, top, left, height, width, mirrored if views.flip else 0)


def draw_partners(splits: Sequence[Sequence[str]], views: ViewsParams, *, seed: int, purpose: str) -> Partners:
    """Draw which views are blends, and the partners: videos of the same split. NOT_MIXED where views are not.

    For each number of a view the videos of a split stand in a circle, in the order of digests of their names, and each
    is blended with the next. So all of them are partners equally often, and one that comes or goes changes one partner
    of each number. A video that is alone in its split has none.
    """
    if views.mix == "none":
        return NOT_MIXED
    partners: dict[str, list[str | None]] = {video_id: [] for split in splits for video_id in split}

    def digest(what: str, number: int, video_id: str) -> int:
        return digest_uint64(f"{seed} {purpose} {what} {number}\0{video_id}".encode())

    for number in range(views.num_views):
        for split in splits:
            circle = [video_id for _, video_id in sorted((digest("circle", number, name), name) for name in split)]
            for video_id, after in zip(circle, circle[1:] + circle[:1], strict=True):
                chosen = digest("chance", number, video_id) < views.mix_share * 2**64
                partners[video_id].append(after if chosen and len(split) > 1 else None)
    return {video_id: tuple(of_views) for video_id, of_views in partners.items()}


def draw_blend(
    partner: str,
    view: View,
    clip: ClipParams,
    views: ViewsParams,
    *,
    seed: int,
    purpose: str,
    video_id: str,
    number: int,
) -> Blend:
    """Draw how much of its partner's `view` a view shows, and where."""
    name = (purpose.encode(), b"\0blend\0", video_id.encode())
    rng = np.random.default_rng([seed, digest_uint64(*name), number])
    own_share, size = rng.beta(views.mix_alpha, views.mix_alpha), clip.size
    if views.mix == "mixup":
        weight = min(max(round(FULL_WEIGHT * own_share), 1), FULL_WEIGHT - 1)
        return Blend(partner, view, weight, 0, 0, size, size)
    half = max(1, round(size * float(np.sqrt(1 - own_share)) / 2))
    (top, bottom), (left, right) = (
        (max(middle - half, 0), min(middle + half, size)) for middle in rng.integers(size, size=2).tolist()
    )
    return Blend(partner, view, 0, top, left, bottom - top, right - left)


def uniform_view(
    shape_THW: tuple[int, int, int], clip: ClipParams, *, index: int, num_clips: int, crop: int = 0, num_crops: int = 1
) -> View:
    """The `index`-th of `num_clips` views spread evenly over a video, and in it the `crop`-th of `num_crops` squares.

    The squares are the largest that the frame holds: one in its middle, or several spread evenly along its longer side
    from edge to edge, as SlowFast's three crops are (Feichtenhofer et al., ICCV 2019, section 4).
    """
    num_frames, frame_height, frame_width = shape_THW
    stride = _fitting_stride(num_frames, clip)
    last_start = max(num_frames - 1 - (clip.num_frames - 1) * stride, 0)
    start = round(last_start * (index + 0.5) / num_clips)
    side = min(frame_height, frame_width)
    place, last = (crop, num_crops - 1) if num_crops > 1 else (1, 2)  # a single crop lies half way
    top, left = ((length - side) * place // last for length in (frame_height, frame_width))
    return View(start, stride, top, left, side, side, 0)


def read_view(
    frames: FrameStore, video_id: str, view: AnyView, clip: ClipParams, *, shown_as: ClipParams | None = None
) -> Tensor:
    """Apply a view to a stored video: uint8 clip_THWC of clip.num_frames × clip.size × clip.size × 3.

    A video that is shorter than the clip starts over. With `shown_as`, a teacher's clip, the same box in space and time
    has as many frames and pixels as that. Only the frames of the view are read. A blend reads two videos.
    """
    if isinstance(view, BlendedView):
        own_THWC = read_view(frames, video_id, view.own, clip, shown_as=shown_as)
        other_THWC = read_view(frames, view.blend.partner, view.blend.view, clip, shown_as=shown_as)
        return blended(own_THWC, other_THWC, view.blend, clip.size)
    numbers = frame_numbers(view, clip, frames.shape(video_id)[0], shown_as=shown_as)
    box_THWC = frames.read(video_id, numbers, top=view.top, left=view.left, height=view.height, width=view.width)
    return clip_of_box(box_THWC, view, shown_as or clip)


def frame_numbers(
    view: View, clip: ClipParams, num_frames: int, *, shown_as: ClipParams | None = None
) -> NDArray[np.int64]:
    """The frames that a view shows of a video of `num_frames`, in its order; a short video starts over.

    With `shown_as`, k times as many: those of the view and k − 1 evenly behind each, as far as the video goes. Where
    the view's frames are less than k apart, as of a short video, some stand twice.
    """
    shown = shown_as or clip
    numbers = view.first_frame + view.frame_stride * np.arange(shown.num_frames) * clip.num_frames // shown.num_frames
    fits = view.first_frame + view.frame_stride * (clip.num_frames - 1) < num_frames
    return np.minimum(numbers, num_frames - 1) if fits else numbers % num_frames


def clip_of_box(box_THWC: NDArray[np.uint8], view: View, clip: ClipParams) -> Tensor:
    """The box of a view's frames, mirrored where the view is, at the size of a clip: uint8 clip_THWC."""
    clip_TCHW = torch.from_numpy(box_THWC).permute(0, 3, 1, 2)
    if view.flip:
        clip_TCHW = clip_TCHW.flip(-1)
    # what torchvision's v2.functional.resize calls for uint8, without two seconds of imports in every process
    resized_TCHW = interpolate(clip_TCHW, size=(clip.size, clip.size), mode="bilinear", antialias=True)
    return resized_TCHW.permute(0, 2, 3, 1).contiguous()


def blended(own_THWC: Tensor, other_THWC: Tensor, blend: Blend, size: int) -> Tensor:
    """Two uint8 clips of one shape as one, rounded once, half to even; the blend's box is in a clip of that `size`.

    In a clip of another size a pixel on the box's edge is in it by the share that the box covers of it: so the box has
    the same share of the area, exactly, in every size.
    """
    _, height, width, _ = own_THWC.shape
    covered_H, of_height = _in_lowest_terms(_covered(blend.top, blend.height, size, height), size)
    covered_W, of_width = _in_lowest_terms(_covered(blend.left, blend.width, size, width), size)
    weight, of_weight = _in_lowest_terms(np.array(FULL_WEIGHT - blend.weight), FULL_WEIGHT)
    whole = 2 * of_weight * of_height * of_width  # an even number, so that half of it is one
    dtype = np.int32 if 256 * whole < 2**31 else np.int64
    share_HWC = np.repeat((2 * weight * np.outer(covered_H, covered_W)).astype(dtype)[..., None], 3, axis=2)
    sums_THWC = other_THWC.numpy() * share_HWC
    sums_THWC += own_THWC.numpy() * (whole - share_HWC)
    odd_THWC = sums_THWC // whole & 1
    sums_THWC += odd_THWC + (whole // 2 - 1)  # the rounding: half goes up where the whole part is odd
    return torch.from_numpy((sums_THWC // whole).astype(np.uint8))


def _covered(start: int, length: int, size: int, num_pixels: int) -> NDArray[np.int64]:
    """How much of each of `num_pixels` along a side an interval covers, in parts of `size`, in which it is given."""
    edges = np.arange(num_pixels + 1) * size  # in a unit in which a pixel is `size`, and the side size · num_pixels
    inside: NDArray[np.int64] = edges.clip(start * num_pixels, (start + length) * num_pixels)
    return np.diff(inside)


def _in_lowest_terms(parts: NDArray[np.int64], whole: int) -> tuple[NDArray[np.int64], int]:
    divisor = int(np.gcd.reduce([*np.unique(parts), whole]))
    return parts // divisor, whole // divisor


def pixel_digest(clip_THWC: NDArray[np.uint8]) -> int:
    """64 bits that name the pixels of a clip."""
    return digest_uint64(np.ascontiguousarray(clip_THWC).data)


def _fitting_stride(num_frames: int, clip: ClipParams) -> int:
    """The clip's stride, or the largest that fits into a short video."""
    return min(clip.frame_stride, max(1, (num_frames - 1) // max(clip.num_frames - 1, 1)))


def named_views(video_ids: Sequence[str], chosen_NV: NDArray[np.bool_]) -> list[str]:
    """The videos with a chosen view, each with the numbers of these views, for messages."""
    return [
        f"{video_ids[row]}: view {', '.join(map(str, np.flatnonzero(chosen_NV[row])))}"
        for row in np.flatnonzero(chosen_NV.any(axis=1)).tolist()
    ]
