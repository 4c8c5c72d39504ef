"""Our soft losses beside those of torchdistill, another program for distillation, in double precision."""

from __future__ import annotations

import pytest
import torch
from builders import distillation_params

import pipeline.models.torchvision_compat  # noqa: F401 - beside a CPU torch, torchvision cannot be imported without it
from pipeline.distill.student.loss import distillation_loss

mid_level = pytest.importorskip("torchdistill.losses.mid_level", exc_type=ImportError)

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 20.0)
PLACES = {f"{whose}_module_{what}": "out" for whose in ("student", "teacher") for what in ("path", "io")}


def theirs(kind, student_BK, teacher_BK, labels_B=None, **options):
    loss = getattr(mid_level, kind)(**PLACES, **options)
    return float(loss({"out": {"out": student_BK}}, {"out": {"out": teacher_BK}}, labels_B))


def ours(student_BK, teacher_BK, labels_B, *, soft_loss="kl", temperature, soft_weight=1.0, **options):
    options = distillation_params(**options)
    found = distillation_loss(
        student_BK,
        labels_B,
        teacher_BK,
        soft_loss=soft_loss,
        temperature=temperature,
        soft_weight=soft_weight,
        options=options,
    )
    assert found.dtype == torch.float64
    return float(found)


@pytest.fixture(params=[(16, 11, 1.0), (3, 48, 5.0), (64, 2, 0.1)], ids=str)
def batch(request):
    """Logits of student and teacher, and labels."""
    num_rows, num_classes, scale = request.param
    draw = torch.Generator().manual_seed(num_rows)
    shape = (num_rows, num_classes)
    student_BK, teacher_BK = (scale * torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return student_BK, teacher_BK, torch.randint(num_classes, (num_rows,), generator=draw)


# torchdistill leaves the factor T² out where it is given no labels
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("kind", "standardize"), [("KDLoss", False), ("LogitStdKDLoss", True)])
def test_kl_is_that_of_torchdistill(batch, kind, standardize, temperature):
    found = ours(*batch, temperature=temperature, standardize=standardize)
    expected = temperature**2 * theirs(kind, *batch[:2], temperature=temperature, alpha=0.0)
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("soft_weight", [0.1, 0.5, 0.9])
@pytest.mark.parametrize(("kind", "standardize"), [("KDLoss", False), ("LogitStdKDLoss", True)])
def test_soft_and_hard_terms_are_weighed_like_those_of_torchdistill(batch, kind, standardize, soft_weight):
    found = ours(*batch, temperature=4.0, soft_weight=soft_weight, standardize=standardize)
    expected = theirs(kind, *batch, temperature=4.0, alpha=1 - soft_weight)
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("inter", "intra"), [(1.0, 1.0), (2.0, 0.5), (1.0, 0.0)])
def test_dist_is_that_of_torchdistill(batch, temperature, inter, intra):
    found = ours(*batch, soft_loss="dist", temperature=temperature, dist_inter=inter, dist_intra=intra)
    expected = theirs("DISTLoss", *batch[:2], beta=inter, gamma=intra, tau=temperature)
    assert found == pytest.approx(expected, rel=1e-11, abs=1e-11)
