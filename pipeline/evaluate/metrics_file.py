"""evaluation.json: what `evaluate` finds about teacher, student and baseline, and its one writer and one reader.

metrics.json has the few numbers of it that people compare between runs: `dvc exp show` has a column for each.
docs/evaluation.md has the formula of each number.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.digest import has_valid_digest, with_digest
from pipeline.core.errors import StaleArtifactError
from pipeline.core.files import write_text_whole
from pipeline.core.params import Count, Share
from pipeline.evaluate.score.predictions import DIGITS

MODELS = ("teacher", "student", "baseline")
SHOWN_DIGITS = 3  # of a share, for a person: tenths of a percent

Number = Annotated[float, Field(allow_inf_nan=False)]


class Values(BaseModel):
    """A part of evaluation.json; unknown keys are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ModelMetrics(Values):
    """One model alone; shares from 0 to 1, with 95 % intervals over the videos."""

    top1: Share
    top1_low: Share
    top1_high: Share
    top5: Share
    mean_class_top1: Share
    ece: Share


class Gain(Values):
    """The student against the baseline."""

    top1: Number
    top1_low: Number
    top1_high: Number
    mcnemar_p: Share


class Pair(Values):
    """A number for each model that is compared with the teacher."""

    student: Number
    baseline: Number


class Protocol(Values):
    """Which videos a model was scored on, and in how many views; `manifest` is the digest of the table of videos."""

    split: str
    num_clips: Count
    num_crops: Count
    manifest: str


class Metrics(Values):
    """All of evaluation.json but its digest."""

    teacher: ModelMetrics
    student: ModelMetrics
    baseline: ModelMetrics
    student_minus_baseline: Gain
    agreement_with_teacher: Pair
    kl_from_teacher: Pair
    num_test_videos: Count
    protocol: Protocol
    models: dict[str, str] = {}  # digests of the models' files
    tables: str | None = None  # digest of the tables' files

    def of(self, model: str) -> ModelMetrics:
        """The metrics of one of MODELS."""
        found: ModelMetrics = getattr(self, model)
        return found


def write_evaluation(path: Path, metrics: Metrics) -> None:
    """All of it as JSON, rounded to DIGITS after the point, with a digest."""
    text = metrics.model_dump_json(exclude_none=True)
    rounded = json.loads(text, parse_float=lambda number: round(float(number), DIGITS))
    write_text_whole(path, json.dumps(with_digest(rounded), indent=2) + "\n")


def write_metrics(path: Path, metrics: Metrics) -> None:
    """What people compare, for `dvc metrics` and `dvc exp show`: top-1 and the student's gain, as shares."""
    gain = metrics.student_minus_baseline
    gains = {"gain": gain.top1, "gain_low": gain.top1_low, "gain_high": gain.top1_high}
    shown = {
        "top1": {name: round(metrics.of(name).top1, SHOWN_DIGITS) for name in MODELS},
        **{name: round(value, SHOWN_DIGITS) for name, value in gains.items()},
    }
    write_text_whole(path, json.dumps(shown, indent=2) + "\n")


def read_evaluation(path: Path) -> Metrics:
    """Read what `write_evaluation` wrote; raises StaleArtifactError with every key that is missing or out of range."""
    try:
        found = json.loads(path.read_bytes())
        if "digest" in found and not has_valid_digest(found):
            raise ValueError("it does not have the digest that was written with it")
        return Metrics.model_validate(found)
    except ValidationError as error:
        findings = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
    except OSError as error:
        findings = [error.strerror or str(error)]
    except (ValueError, TypeError, RecursionError) as error:
        findings = [str(error)]
    raise StaleArtifactError(
        f"{path}: not the evaluation that `evaluate` writes",
        findings=findings,
        remedy="`dvc repro evaluate` makes results/evaluation.json again; results/metrics.json is a part of it alone",
    )
