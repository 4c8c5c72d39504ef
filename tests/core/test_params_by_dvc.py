"""Numbers as DVC writes them (`dvc exp run -S`), which is YAML 1.2: 0.00001 becomes 1e-05."""

from __future__ import annotations

import shutil
from functools import reduce
from types import NoneType
from typing import Literal, get_args, get_origin

import pytest
from clones import clone, run
from paths import ROOT
from pydantic import BaseModel

from pipeline.core.errors import ParamsError
from pipeline.core.params import Params, load_params

NUMBERS = ["1e-05", "1e-5", "0.00001", "1e3", "3", "1E+20", "-1", "-2.5e-7"]
RANGE = ("greater than", "less than", "valid integer", "1 or 3", "must be below", "must not be above")


def scalar_types(annotation):
    """The types that a field's values have: of `Count | None`, int and NoneType."""
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_args(annotation):
        return set().union(*map(scalar_types, get_args(annotation)))
    return {annotation} if isinstance(annotation, type) else set()


def numeric(model, place=()):
    """Dotted names of all integers, real numbers, and lists of them."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from numeric(field.annotation, (*place, name))
        elif scalar_types(field.annotation) - {list} & {int, float}:
            yield ".".join((*place, name))


PLACES = list(numeric(Params))


def value_at(values, name):
    return reduce(lambda inner, key: inner[key], name.split("."), values)


def test_the_sweep_finds_the_numbers_of_every_section():
    assert {"seed", "temperature", "prepare.split", "train_teacher.patience", "score.num_crops"} < set(PLACES)
    assert "distillation.extra_temperatures" in PLACES
    assert not {"enhancer", "views.flip", "train_student.weights", "prepare.root"} & set(PLACES)
    sections = {name for name, field in Params.model_fields.items() if not get_args(field.annotation)}
    textual = {"seed", "temperature", "soft_weight", "enhancer", "teacher", "student"}
    assert {name.partition(".")[0] for name in PLACES if "." in name} == sections - textual
    assert NoneType not in scalar_types(Params.model_fields["temperature"].annotation)


@pytest.fixture(scope="session")
def dvc_writes(tmp_path_factory):
    """Makes a copy of params.yaml with what DVC writes for `-S place=text` of each place."""
    hydra = pytest.importorskip("dvc.utils.hydra")
    path = tmp_path_factory.mktemp("params") / "params.yaml"

    def write(places, text):
        shutil.copy(ROOT / "params.yaml", path)
        listed = f"[{text}]"
        hydra.apply_overrides(path, [f"{place}={listed if 'extra' in place else text}" for place in places])
        return path

    return write


@pytest.mark.parametrize("text", NUMBERS)
def test_every_number_is_read_as_dvc_means_it_or_refused_for_its_range(dvc_writes, text):
    serialize = pytest.importorskip("dvc.utils.serialize")
    refused = set()
    path = dvc_writes(PLACES, text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    for finding in caught.value.findings:
        assert any(words in finding for words in RANGE), finding
        refused |= {place for place in PLACES if f" {place}: " in finding or f" {place}.0: " in finding}
    left = [place for place in PLACES if place not in refused]
    # of these, sections compare some with others
    left = [place for place in left if place.rpartition(".")[2] not in ("warmup_epochs", "accumulate", "epochs")]
    path = dvc_writes(left, text)
    read, meant = load_params(path).model_dump(), serialize.load_yaml(path)
    for place in left:
        expected = [float(text)] if "extra" in place else float(text)
        assert value_at(read, place) == value_at(meant, place) == expected, place
    assert left or text.startswith("-")


@pytest.mark.parametrize("place", ["train_student.learning_rate", "fit_enhancer.learning_rate", "temperature"])
@pytest.mark.parametrize("text", NUMBERS[:5])
def test_one_number_alone(dvc_writes, place, text):
    assert value_at(load_params(dvc_writes([place], text)).model_dump(), place) == float(text)


@pytest.mark.slow
def test_an_experiment_starts_with_a_small_learning_rate(tmp_path):
    clone(tmp_path)
    done = run(tmp_path, "dvc", "exp", "run", "-S", "train_student.learning_rate=1e-5", "prepare")
    assert "Running stage 'prepare'" in done.stdout  # which reads and checks all of the file
    assert "  learning_rate: 1e-05\n" in (tmp_path / "params.yaml").read_text()
    assert load_params(tmp_path / "params.yaml").train_student.learning_rate == 1e-5
