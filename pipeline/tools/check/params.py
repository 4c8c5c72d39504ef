"""Check of the parameters: what any stage would refuse before it computes, found at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from pathlib import Path

import torch

from pipeline.core.device import Ranks
from pipeline.core.params import ClipParams, ModelName, Params, TrainParams
from pipeline.data.dataset import EpochPlan
from pipeline.distill.student.loss import require_labels
from pipeline.distill.teacher.precompute import chosen_codec
from pipeline.enhance.file import LEARNED
from pipeline.enhance.outside_weights import enhancer_from_weights
from pipeline.models.folds import assign_folds
from pipeline.models.pretrained import TORCHVISION, fit, read_pretrained, torchvision_url
from pipeline.models.recognizer import MODELS, Architecture, check_geometry
from pipeline.tools.check.findings import Group
from pipeline.train.execution import autocast_dtype, check_dist_columns, check_shares

ANY_WIDTH = 16  # of a network whose width is missing


@dataclass(frozen=True)
class Known:
    """What is known of the data and of the machine; None where the data could not be read."""

    class_names: Sequence[str] | None
    num_train: int | None
    device: torch.device
    num_processes: int
    num_footage: int = 0  # videos without a label
    train: Sequence[tuple[str, str]] = ()  # group and class of each training video


def check_params(group: Group, params: Params, known: Known) -> None:
    """Everything that the stages compare before they start, and what is allowed but rarely intended."""
    more = {f"more_teachers.{name}": teacher.network for name, teacher in params.more_teachers.items()}
    networks = {"train_teacher": params.teacher, **more, "train_student": params.student}
    for section, options in params.trainings().items():
        _check_training(group, networks[section], section, options, params.clips()[section], known)
    _check_enhancers(group, params)
    _check_teachers(group, params)
    _check_folds(group, params, known)
    if known.class_names is not None:
        with group.catching():
            chosen_codec(params.precompute_soft_targets, len(known.class_names))
    _check_soft_loss(group, params, known)
    _check_views(group, params)
    _check_size(group, params)


def _check_training(
    group: Group, name: ModelName, section: str, options: TrainParams, clip: ClipParams, known: Known
) -> None:
    before = group.num_problems
    num_classes = 2 if known.class_names is None else len(known.class_names)
    smallest = 2
    with group.catching(section):
        autocast_dtype(options.precision, known.device)
    if known.num_train is not None:
        plan = EpochPlan(_epoch_clips(section, known.num_train, known), options.batch_size, seed=0)
        smallest = max(1, plan.smallest_part(options.accumulate))
        with group.catching(section):
            check_shares(plan, options, Ranks(0, known.num_processes))
    with group.catching(section):
        Architecture(name, num_classes, clip, options.width, options.dropout, options.drop_path)
    kind = MODELS[name]
    # with options that it takes, so that wrong ones do not hide other problems
    width = (options.width or ANY_WIDTH) if kind.has_width else None
    drop_path = options.drop_path if kind.has_drop_path else 0.0
    arch = Architecture(name, num_classes, clip, width, options.dropout, drop_path)
    with group.catching(section):
        check_geometry(arch, smallest_batch=smallest, frozen_stages=options.frozen_stages)
    if options.weights is not None:
        with group.catching(section):
            _check_weights(group, section, options.weights, arch, known)
    if group.num_problems == before:
        shape = f"{clip.num_frames}×{clip.size}×{clip.size}"
        group.fact(
            f"{section}: {name} takes clips of {shape} in batches of {options.batch_size} on {known.device.type}"
        )


def _epoch_clips(section: str, num_train: int, known: Known) -> int:
    """Clips of an epoch: the teacher's has none of the footage."""
    return num_train + known.num_footage * (section == "train_student")


def _check_weights(group: Group, section: str, weights: str, arch: Architecture, known: Known) -> None:
    """Compare pretrained weights with the network; nothing is downloaded."""
    if weights == TORCHVISION and MODELS[arch.name].in_torchvision:
        url = torchvision_url(arch.name)
        cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if not cached.is_file():
            group.warning(
                f"{section}.weights: torchvision's for {arch.name} are not cached: the training will download {url}",
                remedy=f"if it will have no network, put the file into {cached.parent} beforehand",
            )
            return
    pretrained = read_pretrained(weights, arch.name)
    found = fit(pretrained, arch, class_names=known.class_names or ())
    group.fact(f"{section}: {found.summary}")


def _check_enhancers(group: Group, params: Params) -> None:
    options = params.fit_enhancer
    if options.weights is None:
        return
    names = dict.fromkeys((params.enhancer, *(teacher.enhancer for teacher in params.more_teachers.values())))
    learned = [name for name in names if name in LEARNED]
    if not learned:
        group.warning(
            f"fit_enhancer.weights is set, but {' and '.join(names)} has no weights: the file is not used",
            remedy=f"set it to null, or choose one of {', '.join(LEARNED)}",
        )
    for name in learned:
        with group.catching():
            enhancer_from_weights(
                Path(options.weights), name, curve_reduction=options.curve_reduction, precision=options.precision
            )
            group.fact(f"fit_enhancer.weights: {options.weights} holds the weights of {name}")


def _check_teachers(group: Group, params: Params) -> None:
    if not params.more_teachers:
        return
    clips = params.clips()
    first = (params.enhancer, params.teacher, params.seed, clips["train_teacher"], params.train_teacher)
    made_by = {"the dials' one": first}
    made_by |= {
        name: (
            *(each.enhancer, each.network, each.seed, clips[f"more_teachers.{name}"]),
            each.training_params(params.train_teacher),
        )
        for name, each in params.more_teachers.items()
    }
    group.fact("teachers: " + ", ".join(f"{name} ({how[1]}, {how[0]}, seed {how[2]})" for name, how in made_by.items()))
    for one, other in combinations(made_by, 2):
        if made_by[one] == made_by[other]:
            group.problem(
                f"more_teachers.{other}: the same teacher as {one}", remedy="give it another enhancer, network or seed"
            )
    if params.soft_targets.source == "online":
        group.problem(
            f"soft_targets.source is online, which takes one teacher, and more_teachers has {len(made_by) - 1} more",
            remedy="set soft_targets.source to cache, or more_teachers to {}",
        )


def _check_folds(group: Group, params: Params, known: Known) -> None:
    num_folds = params.teacher_folds
    if num_folds is None:
        return
    if params.soft_targets.source == "online":
        group.problem(
            f"soft_targets.source is online, which takes one teacher, and teacher_folds is {num_folds}",
            remedy="set soft_targets.source to cache, or teacher_folds to null",
        )
    if known.train:
        with group.catching():
            groups = assign_folds(known.train, num_folds, seed=params.seed)
            fold_of = Counter(groups[name] for name, _ in known.train)
            left_out = ", ".join(str(fold_of[fold]) for fold in range(num_folds))
            group.fact(
                f"teacher_folds: {num_folds} more trainings of the teacher, each as long, without {left_out} of "
                f"{len(known.train)} training videos, by {len(groups)} groups"
            )


def _check_soft_loss(group: Group, params: Params, known: Known) -> None:
    options = params.train_student
    with group.catching():
        require_labels(params.soft_loss, 0 if params.soft_targets.min_agreement is None else known.num_footage)
    if known.num_footage and params.soft_weight == 0:
        group.warning(
            f"soft_weight is 0, and {known.num_footage} videos have no label: the student learns nothing from them",
            remedy="raise soft_weight, or leave these videos out",
        )
    if params.soft_loss != "dist" or params.distillation.dist_intra == 0 or known.num_train is None:
        return
    with group.catching():
        plan = EpochPlan(_epoch_clips("train_student", known.num_train, known), options.batch_size, seed=0)
        check_dist_columns(plan, options, known.num_processes)


def _check_views(group: Group, params: Params) -> None:
    num_views, epochs = params.views.num_views, params.train_student.epochs
    if num_views > epochs:
        group.warning(
            f"views.num_views is {num_views}, train_student.epochs {epochs}: the teacher computes "
            f"{num_views - epochs} views of each video that no student sees",
            remedy=f"set views.num_views to {epochs}, unless you plan to train longer later",
        )
    elif num_views < epochs:
        group.warning(
            f"views.num_views is {num_views}, train_student.epochs {epochs}: from epoch {num_views} on the student "
            "sees the same crops again",
            remedy=f"views.num_views: {epochs} gives each epoch its own; a view costs the teacher one clip per video",
        )


def _check_size(group: Group, params: Params) -> None:
    """The smallest square crop has a side of about sqrt(min_scale) times the frames' short side."""
    short_side = params.prepare.short_side
    clips = {"clip": params.clip, "teacher_clip": params.teacher_clip}
    clips |= {f"more_teachers.{name}.clip": teacher.clip for name, teacher in params.more_teachers.items()}
    sizes = {f"{name}.size": clip.size for name, clip in clips.items() if clip is not None}
    for name, size in sizes.items():
        if size > short_side:
            enough = round(size / sqrt(params.views.min_scale))
            group.warning(
                f"{name} is {size}, but stored frames have a short side of {short_side}: every clip is enlarged",
                remedy=f"raise prepare.short_side to {enough} or more, or lower {name}",
            )
