"""Training and scoring samples: which clip of which video, in which order, and with which soft target.

The order of an epoch and the view of a video depend only on their names, so a run that resumes at step s sees exactly
what an uninterrupted one would. Teacher, student and baseline share everything here; a student's sample differs from a
baseline's by one lookup.

Axes: B batch, T frames, H, W, C channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from pipeline.core.digest import digest_uint64
from pipeline.core.errors import DataError, EnvironmentProblem, StaleArtifactError
from pipeline.core.params import ClipParams, ViewsParams
from pipeline.data.frame_store import FrameStore
from pipeline.data.listing import NO_LABEL
from pipeline.data.manifest import Manifest
from pipeline.data.views import AnyView, BlendedView, Partners, View, draw_blend, draw_view, read_view, uniform_view

_SHARED_MEMORY = "file </torch_"  # in PyTorch's errors about what processes share


@dataclass(frozen=True)
class Sample:
    """A video: `label` is the class index, 0 to K − 1, or NO_LABEL."""

    video_id: str
    label: int


def samples_of(manifest: Manifest, frames: FrameStore, *splits: str) -> list[Sample]:
    """The videos of a split, or of several, in the order of the manifest.

    Raises StaleArtifactError where the frame store lacks some of them or was made from other videos, DataError where
    there are none.
    """
    check_same_videos(manifest, frames)
    split = " and ".join(splits)
    samples = [Sample(row.video_id, manifest.class_index(row)) for row in manifest.rows_of(*splits)]
    stored = set(frames.video_ids)
    missing = [sample.video_id for sample in samples if sample.video_id not in stored]
    if missing:
        raise StaleArtifactError(
            f"{frames.path}: lacks {len(missing)} of the {len(samples)} {split} videos of the manifest",
            findings=missing,
            remedy="`dvc repro` makes both from the same videos",
        )
    if not samples:
        raise DataError(
            f"the manifest has no {split} video", remedy="look at the annotation lists and prepare's params"
        )
    return samples


def check_same_videos(manifest: Manifest, frames: FrameStore) -> None:
    """Raise StaleArtifactError where frames were made from other videos than the manifest's.

    By the digest of all videos' ids and digests; a store that does not name its videos is accepted.
    """
    made_from = frames.origin.get("videos")
    if made_from not in (None, manifest.videos_digest):
        raise StaleArtifactError(
            f"{frames.path}: is not of the manifest's videos",
            findings=[f"digest of all videos: the frames have {made_from}, the manifest {manifest.videos_digest}"],
            remedy="`dvc repro prepare` makes both from the same videos; one of them is another run's, or was changed",
        )
    other = [
        f"{row.video_id}: {frames.shape(row.video_id)[0]} frames are stored, the manifest has {row.num_frames}"
        for row in manifest.rows
        if made_from is not None and row.video_id in frames and frames.shape(row.video_id)[0] != row.num_frames
    ]
    if other:
        raise StaleArtifactError(
            f"{frames.path}: does not fit the manifest", findings=other, remedy="`dvc repro prepare` makes both"
        )


@dataclass(frozen=True)
class SecondLabels:
    """Of the clips of a batch, some of which are blends: the partners' labels, and the shares of the clips' own."""

    labels_B: Tensor
    own_share_B: Tensor  # float32; 1 for a clip that is no blend


@dataclass(frozen=True)
class Batch:
    """Clips with their labels and, for a student, the teacher's logits, or the clips for an online teacher.

    A clip without a label has NO_LABEL. labelled_share: how much of the step's whole batch, on all ranks, has one.
    second: None where no clip is a blend.
    """

    clip_BTHWC: Tensor
    labels_B: Tensor
    teacher_BK: Tensor | None
    teacher_clip_BTHWC: Tensor | None  # the same views of other frames
    video_ids: tuple[str, ...]
    labelled_share: float = 1.0
    second: SecondLabels | None = None

    @property
    def main_labels_B(self) -> Tensor:
        """The labels, of blends those with the larger share."""
        if self.second is None:
            return self.labels_B
        return torch.where(self.second.own_share_B < 0.5, self.second.labels_B, self.labels_B)

    def changed(self, change: Callable[[Tensor], Tensor], video_ids: tuple[str, ...] | None = None) -> Batch:
        """The batch with that done to each of its tensors, and with other ids where they are given."""
        return Batch(
            change(self.clip_BTHWC),
            change(self.labels_B),
            None if self.teacher_BK is None else change(self.teacher_BK),
            None if self.teacher_clip_BTHWC is None else change(self.teacher_clip_BTHWC),
            self.video_ids if video_ids is None else video_ids,
            self.labelled_share,
            None
            if self.second is None
            else SecondLabels(change(self.second.labels_B), change(self.second.own_share_B)),
        )

    def parts(self, count: int) -> list[Batch]:
        """The batch in parts of nearly equal size."""
        ends = [part * len(self.video_ids) // count for part in range(count + 1)]
        slices = [slice(start, end) for start, end in pairwise(ends)]
        return [self.changed(itemgetter(clips), self.video_ids[clips]) for clips in slices]

    def pin_memory(self) -> Batch:
        """The same batch where a GPU can copy it from by itself; the data loader calls it."""
        return self.changed(Tensor.pin_memory)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device; from pinned memory it may still be on its way."""
        return self.changed(lambda tensor: tensor.to(device, non_blocking=True))


class ViewSource(Protocol):
    """Tells which view a video shows for a number (the epoch), and the teacher's logits_K for it where it has them."""

    def lookup(self, video_id: str, number: int) -> tuple[AnyView, NDArray[np.float32] | None]: ...  # noqa: D102


@dataclass(frozen=True)
class DrawnViews:
    """Random views by name, without soft targets. With `purpose` "bank" they are those of the soft-target store.

    partners: of mixed views, `draw_partners` of the same parameters.
    """

    frames: FrameStore
    clip: ClipParams
    views: ViewsParams
    seed: int
    purpose: str
    partners: Partners = field(default_factory=dict)

    def lookup(self, video_id: str, number: int) -> tuple[AnyView, None]:
        """View `number` modulo num_views; a blend shows its partner's view of the same number, too."""
        number %= self.views.num_views
        view = self._drawn(video_id, number)
        partner = self.partners[video_id][number] if self.partners else None
        if partner is None:
            return view, None
        blend = draw_blend(
            partner,
            self._drawn(partner, number),
            self.clip,
            self.views,
            seed=self.seed,
            purpose=self.purpose,
            video_id=video_id,
            number=number,
        )
        return BlendedView(view, blend), None

    def _drawn(self, video_id: str, number: int) -> View:
        shape = self.frames.shape(video_id)
        return draw_view(
            shape, self.clip, self.views, seed=self.seed, purpose=self.purpose, video_id=video_id, number=number
        )


@dataclass(frozen=True)
class UniformViews:
    """View `number` of `num_clips` × `num_crops` spread over the video: for test, and for validation in one crop."""

    frames: FrameStore
    clip: ClipParams
    num_clips: int
    num_crops: int = 1

    def lookup(self, video_id: str, number: int) -> tuple[View, None]:
        """View `number`: the crops of one clip come after each other."""
        index, crop = divmod(number, self.num_crops)
        shape = self.frames.shape(video_id)
        view = uniform_view(
            shape, self.clip, index=index, num_clips=self.num_clips, crop=crop, num_crops=self.num_crops
        )
        return view, None


# What the bank of views is called in the name of its streams.
BANK = "bank"

Key = tuple[int, int]  # index of the sample, number of the view
ClipChange = Callable[[Tensor, str, int], Tensor]  # a clip_THWC, its video and view number → the clip in another light
Second = tuple[int, float]  # of a blend: its partner's label, and the share that is its own
Item = tuple[Tensor, int, Tensor | None, Tensor | None, str, Second | None]


@dataclass(eq=False)
class ClipDataset(Dataset[Item]):
    """Clips by (index of the sample, number of the view); with `teacher_frames` each view is read from these, too.

    `clip` is the geometry that the views were drawn for; `shown_as` and `teacher_shown_as` have other numbers of frames
    or another size for the clips of these frames, or of the teacher's. `change` is for the light of the clips; never
    for the teacher's.
    """

    frames: FrameStore
    samples: Sequence[Sample]
    source: ViewSource
    clip: ClipParams
    teacher_frames: FrameStore | None = None
    change: ClipChange | None = None
    shown_as: ClipParams | None = None
    teacher_shown_as: ClipParams | None = None

    def __getitem__(self, key: Key) -> Item:
        """Clip (T, H, W, 3) uint8, label, teacher logits, teacher's clip, video id, second label: some may be None."""
        index, number = key
        sample = self.samples[index]
        view, logits_K = self.source.lookup(sample.video_id, number)
        clip_THWC = read_view(self.frames, sample.video_id, view, self.clip, shown_as=self.shown_as)
        if self.change is not None:
            clip_THWC = self.change(clip_THWC, sample.video_id, number)
        teacher_K = None if logits_K is None else torch.from_numpy(logits_K)
        teacher_clip_THWC = None
        if self.teacher_frames is not None:
            as_seen = self.teacher_shown_as
            teacher_clip_THWC = read_view(self.teacher_frames, sample.video_id, view, self.clip, shown_as=as_seen)
        second = self._second(view, sample.label) if isinstance(view, BlendedView) else None
        return clip_THWC, sample.label, teacher_K, teacher_clip_THWC, sample.video_id, second

    def _second(self, view: BlendedView, label: int) -> Second:
        """The partner is of the same split: it has a label where the video has one."""
        partner_label = NO_LABEL if label == NO_LABEL else self._labels[view.blend.partner]
        return partner_label, view.blend.own_share(self.clip.size)

    @cached_property
    def _labels(self) -> dict[str, int]:
        return {sample.video_id: sample.label for sample in self.samples}


@dataclass(frozen=True)
class EpochPlan:
    """The order of the samples: pass after pass over the videos, cut into epochs of `num_samples` clips, and these into
    batches of nearly equal size.

    An epoch is one pass where `num_videos` is not given. A baseline that has fewer videos than a student, which learns
    from footage too, makes as many steps by further passes. Of several ranks each takes its share of every batch: the
    order does not depend on their number.
    """

    num_samples: int
    batch_size: int
    seed: int
    num_videos: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.num_samples // self.batch_size)

    def batches(self, epoch: int) -> list[list[Key]]:
        """Keys of each batch of an epoch; the view's number is that of the pass."""
        num_videos = self.num_videos or self.num_samples
        first, start = divmod(epoch * self.num_samples, num_videos)
        passes = range(first, first + -(-(start + self.num_samples) // num_videos))
        keys = [(index, number) for number in passes for index in self._pass(number, num_videos)]
        ends = np.array_split(np.arange(start, start + self.num_samples), self.steps_per_epoch)
        return [keys[part[0] : part[-1] + 1] for part in ends]

    def _pass(self, number: int, num_videos: int) -> list[int]:
        order: list[int] = (
            np.random.default_rng([self.seed, digest_uint64(b"order"), number]).permutation(num_videos).tolist()
        )
        return order

    def batches_from(self, step: int, num_epochs: int, *, rank: int = 0, num_ranks: int = 1) -> Iterator[list[Key]]:
        """A rank's share of all batches from a global step to the end of the last epoch."""
        first_epoch, done = divmod(step, self.steps_per_epoch)
        for epoch in range(first_epoch, num_epochs):
            for batch in self.batches(epoch)[done if epoch == first_epoch else 0 :]:
                yield batch[rank * len(batch) // num_ranks : (rank + 1) * len(batch) // num_ranks]

    def batch(self, step: int) -> list[Key]:
        """The whole batch of a global step."""
        epoch, number = divmod(step, self.steps_per_epoch)
        return self.batches(epoch)[number]

    def samples_before(self, step: int) -> int:
        """How many samples the steps before a global one have; the larger batches come first in an epoch."""
        epochs, number = divmod(step, self.steps_per_epoch)
        least, larger = divmod(self.num_samples, self.steps_per_epoch)
        return epochs * self.num_samples + number * least + min(number, larger)

    def smallest_part(self, num_parts: int) -> int:
        """The least samples that a batch has, when each is cut into `num_parts`."""
        return self.num_samples // self.steps_per_epoch // num_parts


def load_batches(dataset: ClipDataset, batches: Iterator[list[Key]], *, num_workers: int) -> Iterator[Batch]:
    """The batches of these keys, in their order whatever the number of workers.

    Raises EnvironmentProblem where a worker is killed, or has no shared memory for what it made.
    """
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_collate,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # its own: making a loader must not move the stream that dropout draws from
        pin_memory=torch.cuda.is_available(),
    )
    try:
        yield from loader
    except RuntimeError as error:
        message = str(error)
        if not message.startswith("DataLoader worker") and _SHARED_MEMORY not in message:
            raise
        raise EnvironmentProblem(
            f"a data loader process was lost: {message.strip().splitlines()[-1]}",
            remedy="memory is the usual reason, or /dev/shm, through which clips come: a smaller batch_size or "
            "num_workers needs less, num_workers: 0 none (docker run --shm-size 8g gives more); then run the same "
            "command again: it goes on",
        ) from error


def in_order(num_samples: int, num_clips: int, batch_size: int) -> Iterator[list[Key]]:
    """Keys of all views of all samples, views of one sample after each other, in batches."""
    keys = [(index, number) for index in range(num_samples) for number in range(num_clips)]
    return iter([keys[start : start + batch_size] for start in range(0, len(keys), batch_size)])


def pixel_statistics(
    frames: FrameStore, samples: Sequence[Sample], clip: ClipParams
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of RGB / 255 over the middle clip of every sample."""
    views = UniformViews(frames, clip, num_clips=1)
    total_C, squares_C, count = np.zeros(3), np.zeros(3), 0
    for sample in samples:
        view, _ = views.lookup(sample.video_id, 0)
        pixels_MC = read_view(frames, sample.video_id, view, clip).numpy().reshape(-1, 3).astype(np.float64) / 255
        total_C += pixels_MC.sum(axis=0)
        squares_C += (pixels_MC**2).sum(axis=0)
        count += len(pixels_MC)
    mean_C = total_C / count
    std_C = np.sqrt(np.maximum(squares_C / count - mean_C**2, 0))
    # all-black videos have no spread: one grey level is the least that a pixel can differ by
    return mean_C.tolist(), np.maximum(std_C, 1 / 255).tolist()


def _collate(items: Sequence[Item]) -> Batch:
    clips, labels, teachers, teacher_clips, video_ids, seconds = zip(*items, strict=True)
    return Batch(
        default_collate(list(clips)),  # in a worker straight into the memory that it shares with the loop
        torch.tensor(labels, dtype=torch.int64),
        None if teachers[0] is None else torch.stack(teachers),
        None if teacher_clips[0] is None else default_collate(list(teacher_clips)),
        tuple(video_ids),
        second=_second_labels(labels, seconds) if any(seconds) else None,
    )


def _second_labels(labels: Sequence[int], seconds: Sequence[Second | None]) -> SecondLabels:
    whole = [second or (label, 1.0) for label, second in zip(labels, seconds, strict=True)]
    partner_labels, own_shares = zip(*whole, strict=True)
    return SecondLabels(torch.tensor(partner_labels, dtype=torch.int64), torch.tensor(own_shares, dtype=torch.float32))


def _one_thread(_worker: int) -> None:
    torch.set_num_threads(1)
