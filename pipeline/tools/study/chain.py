"""The jobs of a study's runs: for each arm, seed and fold the commands of the chain, from enhancer to scores.

Nothing runs here. A job is known by a digest of all that it is made from, so arms share what is equal: a baseline, a
teacher, enhanced frames.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.digest import digest_json
from pipeline.core.files import write_text_whole
from pipeline.core.params import Params, overridden, params_text
from pipeline.enhance.file import LEARNED
from pipeline.tools.study.jobs import Job, content_digest

if TYPE_CHECKING:
    from pipeline.tools.study.arms import Arm

MODELS = ("teacher", "baseline", "student")
KEY_DIGITS = 16
# A further teacher of seed k has the seed k times this plus the study's: as the study's, it varies
MORE_SEEDS = 100_000


@dataclass(frozen=True)
class Stage:
    """A stage: the parameters that it uses, and its options.

    `inputs` are given what the name stands for: the data (manifest, dark) or the `--out` of a stage. `outs` are files
    in the job's folder. `words` stand for themselves.
    """

    uses: tuple[str, ...]
    inputs: Mapping[str, str]
    outs: Mapping[str, str]
    words: tuple[str, ...] = ()


MODEL = {"--out": "model.safetensors", "--curve": "curve.csv"}
PREDICTIONS = {"--out": "predictions.csv"}
ONE_PROCESS = ("--workers", "1")  # the number of processes is that of jobs at a time

# In the order of the chain. Parameters and options are dvc.yaml's (tests/tools/study/test_study_chain.py compares).
STAGES: Mapping[str, Stage] = {
    "fit_enhancer": Stage(
        ("seed", "enhancer", "fit_enhancer"),
        {"--manifest": "manifest", "--dark": "dark"},
        {"--out": "enhancer.safetensors", "--curve": "curve.csv"},
    ),
    "enhance": Stage((), {"--dark": "dark", "--enhancer": "fit_enhancer"}, {"--out": "frames"}, ONE_PROCESS),
    "train_teacher": Stage(
        ("seed", "teacher", "clip", "teacher_clip", "views", "train_teacher"),
        {"--manifest": "manifest", "--frames": "enhance"},
        MODEL,
    ),
    "train_teacher_folds": Stage(
        ("seed", "teacher", "clip", "teacher_clip", "teacher_folds", "views", "train_teacher"),
        {"--manifest": "manifest", "--frames": "enhance"},
        {"--out": "folds"},
    ),
    "precompute_soft_targets": Stage(
        ("seed", "clip", "teacher_clip", "teacher_folds", "views", "more_teachers", "precompute_soft_targets"),
        {
            "--manifest": "manifest",
            "--frames": "enhance",
            "--teacher": "train_teacher",
            "--teacher-folds": "train_teacher_folds",
        },
        {"--out": "soft_targets.zarr"},
        ONE_PROCESS,
    ),
    "train_student": Stage(
        (
            *("seed", "teacher", "student", "soft_loss", "temperature", "soft_weight"),
            *("clip", "soft_targets", "distillation", "train_student"),
        ),
        {
            "--manifest": "manifest",
            "--frames": "dark",
            "--soft-targets": "precompute_soft_targets",
            "--teacher": "train_teacher",
            "--enhanced": "enhance",
        },
        MODEL,
    ),
    "train_baseline": Stage(
        ("seed", "student", "clip", "views", "train_student"), {"--manifest": "manifest", "--frames": "dark"}, MODEL
    ),
    "score_teacher": Stage(
        ("score",), {"--manifest": "manifest", "--frames": "enhance", "--model": "train_teacher"}, PREDICTIONS
    ),
    "score_student": Stage(
        ("score",), {"--manifest": "manifest", "--frames": "dark", "--model": "train_student"}, PREDICTIONS
    ),
    "score_baseline": Stage(
        ("score",), {"--manifest": "manifest", "--frames": "dark", "--model": "train_baseline"}, PREDICTIONS
    ),
}
# Of teachers/dvc.yaml, where fit_enhancer and enhance are as above. Of `more_teachers` it uses its own entry alone.
MORE_TEACHER = Stage(
    ("clip", "views", "train_teacher", "more_teachers"),
    {"--manifest": "manifest", "--frames": "enhance"},
    {**MODEL, "--record": "digests.json"},
)
USED = frozenset(key for stage in STAGES.values() for key in stage.uses)


@dataclass(frozen=True)
class Made:
    """What a job reads: where it lies, and a digest of all that it is made from."""

    path: Path
    key: str


@dataclass(frozen=True)
class Data:
    """What a study starts from; `bright` is None where no arm needs it. manifest: as it was prepared."""

    manifest: Path
    dark: Path
    bright: Path | None


@dataclass(frozen=True)
class Run:
    """One model of an arm, for one seed and fold: the job that trains it, and the one that scores it on test."""

    seed: int
    fold: int | None
    arm: str
    model: str
    manifest: Path
    training: Job
    scoring: Job | None

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Those that its result takes."""
        return (self.training,) if self.scoring is None else (self.training, self.scoring)

    @property
    def curve(self) -> Path:
        """The table of its epochs."""
        return self.training.folder / MODEL["--curve"]


@dataclass
class Chain:
    """Makes the jobs of runs; without `with_test` no model sees a test video. threads: CPU threads of a job."""

    out: Path
    data: Data
    with_test: bool
    threads: int
    device: str
    jobs: dict[Path, Job] = field(default_factory=dict)  # by folder, in an order in which they could run

    def add_runs(self, arm: Arm, manifest: Path, *, seed: int, fold: int | None) -> list[Run]:
        """The runs of an arm, whose jobs are added but for those that are there."""
        params = seeded(arm.params, seed)
        path = self.out / "params" / f"seed{seed}-{arm.name}.yaml"
        if fold in (None, 0):
            write_text_whole(path, params_text(params))
        place = f"seed{seed}" + ("" if fold is None else f"/fold{fold}") + f"/{arm.name}"
        maker = _Maker(self, params, path, place, self._sources(manifest, bright=arm.bright))
        jobs: dict[str, Job] = {}
        for name, stage in STAGES.items():
            skipped = ("score_",) * (not self.with_test) + ("fit_enhancer", "enhance") * arm.bright
            if name.startswith(skipped):
                continue
            if name == "precompute_soft_targets" and params.more_teachers:
                jobs[name] = maker.with_more_teachers(stage)
            else:
                jobs[name] = maker.job(name, stage)
        return [
            Run(seed, fold, arm.name, each, manifest, jobs[f"train_{each}"], jobs.get(f"score_{each}"))
            for each in MODELS
        ]

    def _sources(self, manifest: Path, *, bright: bool) -> dict[str, Made]:
        made = {"manifest": manifest, "dark": self.data.dark}
        if bright:
            assert self.data.bright is not None
            made["enhance"] = self.data.bright
        return {name: Made(path, str(content_digest(path))) for name, path in made.items()}


def seeded(params: Params, seed: int) -> Params:
    """The parameters with a seed of the study: all that is random varies with it, further teachers too."""
    more = {
        f"more_teachers.{name}.seed": (teacher.seed * MORE_SEEDS + seed) % 2**32
        for name, teacher in params.more_teachers.items()
    }
    return overridden(params, {"seed": seed, **more}, name=f"seed {seed}")


@dataclass
class _Maker:
    """Makes the jobs of one arm, seed and fold, in order; `made` has the data and what the jobs so far make."""

    chain: Chain
    params: Params
    params_path: Path
    place: str
    made: dict[str, Made]

    def job(
        self,
        name: str,
        stage: Stage,
        *,
        values: Mapping[str, object] | None = None,
        words: Sequence[str] = (),
        more: Mapping[str, Made] | None = None,
    ) -> Job:
        """The job of a stage; adds it, and what it makes, under the stage's name.

        values: of the parameters that the command line has in place of the file. words: more of that command line.
        more: inputs that these name.
        """
        used = {**{key: self.params.model_dump(include={key})[key] for key in stage.uses}, **(values or {})}
        inputs = {option: self.made[source] for option, source in stage.inputs.items()}
        tracked = {**inputs, **(more or {})}
        if name == "fit_enhancer" and not _is_fitted(str(used["enhancer"]), self.params):
            # the same for all seeds and splits, and so are the frames
            del used["seed"], tracked["--manifest"]
            inputs["--manifest"] = Made(self.chain.data.manifest, "")
        identity = {"stage": name, "params": used, "threads": self.chain.threads, "device": self.chain.device}
        keys = {option: made.key for option, made in tracked.items()}
        key = digest_json({**identity, "inputs": keys})[:KEY_DIGITS]
        folder = self.chain.out / "steps" / name / key
        outs = {option: folder / file for option, file in stage.outs.items()}
        paths = {**{option: made.path for option, made in inputs.items()}, **outs}
        if name != "enhance":
            paths["--params"] = self.params_path
        options = [word for option, path in paths.items() for word in (option, str(path))]
        self.made[name] = Made(outs["--out"], key)
        job = Job(
            f"{self.place}/{name}",
            ("stages", name, *options, *stage.words, *words, "--device", self.chain.device),
            identity=identity,
            inputs={option: made.path for option, made in tracked.items()},
            outs=tuple(outs.values()),
            folder=folder,
            # its work folder is its own: it shares no lock with `dvc repro` or other jobs
            environment={"OMP_NUM_THREADS": str(self.chain.threads), "DVC_ROOT": str(folder)},
        )
        return self.chain.jobs.setdefault(folder, job)

    def with_more_teachers(self, stage: Stage) -> Job:
        """Further teachers, each in a light of its own, and the soft targets of all."""
        records: dict[str, Made] = {}
        folders: dict[str, tuple[Job, Made]] = {}
        for name, teacher in self.params.more_teachers.items():
            one = _Maker(self.chain, self.params, self.params_path, f"{self.place}/{name}", dict(self.made))
            enhancer = {"enhancer": teacher.enhancer}
            one.job("fit_enhancer", STAGES["fit_enhancer"], values=enhancer, words=("--enhancer", teacher.enhancer))
            one.job("enhance", STAGES["enhance"])
            entry = {"more_teachers": teacher.model_dump()}
            job = one.job("train_more_teacher", MORE_TEACHER, values=entry, words=("--name", name))
            folders[name] = job, one.made["enhance"]
            records[f"teacher {name}"] = Made(
                job.folder / MORE_TEACHER.outs["--record"], one.made["train_more_teacher"].key
            )
        key = digest_json({name: made.key for name, made in records.items()})[:KEY_DIGITS]
        path = self.chain.out / "teachers" / key
        for name, (job, frames) in folders.items():
            _link(path / "records" / f"{name}.json", job.folder / MORE_TEACHER.outs["--record"])
            _link(path / "made" / name / "model.safetensors", job.folder / MODEL["--out"])
            _link(path / "made" / name / "frames", frames.path)
        return self.job("precompute_soft_targets", stage, words=("--more-teachers", str(path)), more=records)


def _is_fitted(enhancer: str, params: Params) -> bool:
    """Whether it learns from the training videos."""
    return enhancer in LEARNED and params.fit_enhancer.weights is None


def _link(link: Path, target: Path) -> None:
    """A symbolic link, for precompute's folder of further teachers, before there is what it names."""
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(os.path.relpath(target, link.parent))
