"""torchvision can be imported with and without its native library, which is left alone where it loads."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pipeline.models.torchvision_compat as compat


class Declarations:
    """Stands in for torch.library.Library and notes what is declared."""

    made: list[Declarations]

    def __init__(self, name, kind):
        self.name, self.kind, self.schemas = name, kind, []
        type(self).made.append(self)

    def define(self, schema):
        self.schemas.append(schema)


@pytest.fixture
def declarations(monkeypatch):
    Declarations.made = []
    monkeypatch.setattr(torch.library, "Library", Declarations)
    return Declarations.made


def import_again():
    return runpy.run_path(compat.__file__)


def test_nothing_is_declared_where_the_native_library_loads(declarations, monkeypatch):
    loaded = []
    monkeypatch.setattr(torch.ops, "load_library", loaded.append)
    assert "video_models" in import_again()
    assert declarations == []
    assert len(loaded) == 1
    assert Path(loaded[0]).parent.name == "torchvision"


@pytest.mark.parametrize("why", ["it fails to load", "it is absent"])
def test_the_two_operators_are_declared_where_it_does_not(declarations, monkeypatch, why):
    def load_library(_path):
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", load_library)
    if why == "it is absent":
        monkeypatch.setattr(Path, "glob", lambda _self, _pattern: iter(()))
    module = import_again()
    (library,) = declarations
    assert module["_schemas"] is library  # kept alive: its declarations end with it
    assert (library.name, library.kind) == ("torchvision", "DEF")
    assert [schema.partition("(")[0] for schema in library.schemas] == ["nms", "qnms"]


def test_without_torchvision_the_import_says_so(declarations, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ImportError, match="torchvision"):
        import_again()
    assert declarations == []


FRESH = """
import torch
def load_library(path):
    raise OSError("libcudart.so.13: cannot open shared object file")
torch.ops.load_library = load_library
from pipeline.models.torchvision_compat import video_models
with torch.device("meta"):
    assert video_models.r3d_18()(torch.empty(1, 3, 4, 32, 32)).shape == (1, 400)
"""


def test_a_fresh_process_can_use_it_without_the_native_library():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
