"""Check of the machine: Python, the packages against pyproject.toml, GPU, compiler; and of DVC and git.

Imports no package that might be missing: telling so is its task.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from pipeline.core.errors import ParamsError
from pipeline.core.yaml import read_yaml
from pipeline.tools.check.findings import Group

if TYPE_CHECKING:
    import torch

    from pipeline.core.params import Params

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"
NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
SHOWN = ("torch", "torchvision", "av", "h5py", "zarr", "distributed")
INSTALL = "install the project again: `pip install -c constraints.txt -e '.[dvc]'` in its folder"


def check_packages(group: Group) -> None:
    """Compare Python and the installed packages with the ranges that the project states."""
    python, ranges, _ = _ranges()
    version = platform.python_version()
    if version not in python:
        group.problem(f"Python {version} is not {python}", remedy="make the environment with another Python")
    wrong = [text for wanted in ranges if (text := _unfit(wanted))]
    if wrong:
        group.problem("packages are missing or of another version", details=wrong, remedy=INSTALL)
        return
    shown = ", ".join(f"{name} {metadata.version(name)}" for name in SHOWN)
    group.fact(f"Python {version}; all {len(ranges)} packages are in their ranges: {shown}")


def _ranges() -> tuple[SpecifierSet, list[Requirement], list[Requirement]]:
    """Python's range, the required packages, and those of the extra dvc; without pyproject.toml from the metadata."""
    if PYPROJECT.is_file():
        project: dict[str, Any] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        extra = project["optional-dependencies"]["dvc"]
        return (
            SpecifierSet(project["requires-python"]),
            [Requirement(text) for text in project["dependencies"]],
            [Requirement(text) for text in extra],
        )
    found = [Requirement(text) for text in metadata.requires("dlkdd") or ()]
    python = SpecifierSet(metadata.metadata("dlkdd")["Requires-Python"])
    always = [wanted for wanted in found if wanted.marker is None or wanted.marker.evaluate({"extra": ""})]
    return python, always, [wanted for wanted in found if wanted.name == "dvc"]


def _unfit(wanted: Requirement) -> str | None:
    """What is wrong with the installed version of a package, or None."""
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return None
    try:
        version = metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return f"{wanted.name}: not installed, wanted {wanted.specifier or 'in any version'}"
    if wanted.specifier.contains(version, prereleases=True):
        return None
    return f"{wanted.name} {version}: wanted {wanted.specifier}"


def check_device(group: Group, device: torch.device) -> None:
    """Tell which device computes, and warn of a GPU that PyTorch does not use."""
    import torch

    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        free, total = torch.cuda.mem_get_info(device)
        group.fact(f"GPU: {found.name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free")
        return
    group.fact(f"no GPU is used; {len(os.sched_getaffinity(0))} processor cores are available")
    if NVIDIA_DRIVER.exists() and not torch.cuda.is_available():
        group.warning(
            f"there is an NVIDIA driver, but torch {torch.__version__} sees no GPU",
            remedy="install a CUDA build of torch, or check CUDA_VISIBLE_DEVICES",
        )


def check_compiler(group: Group, params: Params) -> None:
    """torch.compile calls a C++ compiler when the first step runs."""
    compiled = [f"{name}.compile" for name, section in params.trainings().items() if section.compile]
    if compiled and not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        group.problem(
            f"{' and '.join(compiled)}: torch.compile needs a C++ compiler, and there is none",
            remedy="install g++, or set compile to false",
        )


def dvc_root() -> Path | None:
    """The nearest folder, from the current one up, that `dvc init` was run in."""
    here = Path().absolute()
    return next((folder for folder in (here, *here.parents) if (folder / ".dvc").is_dir()), None)


def dvc_config(root: Path) -> ConfigParser:
    """DVC's configuration of a project."""
    config = ConfigParser(interpolation=None)
    config.read([root / ".dvc/config", root / ".dvc/config.local"], encoding="utf-8")
    return config


def dvc_cache(root: Path) -> Path:
    """DVC's cache folder: as the project configures it, or by default."""
    return root / ".dvc" / dvc_config(root).get("cache", "dir", fallback="cache").strip()


def check_dvc(group: Group, params_path: Path) -> None:
    """Whether `dvc repro` and `dvc exp run` can work here."""
    _check_git(group, params_path)
    wrong = [text for wanted in _ranges()[2] if (text := _unfit(wanted))]
    if wrong and "not installed" in wrong[0]:
        group.warning(
            "DVC is not installed: `dvc repro` cannot run, but each stage can as a command of its own",
            remedy="`pip install -c constraints.txt -e '.[dvc]'`",
        )
        return
    if wrong:
        group.problem("DVC is of another version", details=wrong, remedy=INSTALL)
    _check_python_of_dvc(group)
    root = dvc_root()
    if root is None or not (Path() / "dvc.yaml").is_file():
        lacking = "no DVC repository" if root is None else "no dvc.yaml"
        group.problem(
            f"{Path().absolute()}: {lacking} here",
            remedy="run from the project's root; in a copy without .dvc, `git init` and `dvc init` first",
        )
        return
    _check_settings(group, root)
    _check_records(group, root)


def _check_python_of_dvc(group: Group) -> None:
    """dvc.yaml's commands begin with `python`, which the shell looks up."""
    found = shutil.which("python")
    if shutil.which("dvc") is None or found is None:
        missing = "dvc" if found else "python"
        group.problem(
            f"the command `{missing}` is not on the PATH, which `dvc repro` needs",
            remedy=f"activate the environment: `source {Path(sys.prefix) / 'bin/activate'}`",
        )
    elif not Path(found).parent.samefile(Path(sys.executable).parent):
        group.problem(
            f"`dvc repro` starts {found}, this is {sys.executable}: stages would run in another environment",
            remedy=f"activate this one: `source {Path(sys.prefix) / 'bin/activate'}`",
        )
    else:
        group.fact(f"DVC {metadata.version('dvc')} starts its stages with {found}")


def _check_settings(group: Group, root: Path) -> None:
    config = dvc_config(root)
    for key, why in (("analytics", "DVC reports its use over the network"), ("check_update", "DVC asks for updates")):
        if config.get("core", key, fallback="true").strip().lower() != "false":
            group.warning(f"core.{key} is not false: {why}", remedy=f"`dvc config core.{key} false`")

    cache = str(dvc_cache(root))
    if not cache.isascii():
        group.warning(
            f"{cache}: DVC's cache has a path beyond ASCII: `dvc exp run --temp` and queued experiments end with "
            "\"'ascii' codec can't encode character\"",
            remedy="move the project, or the cache alone: `dvc cache dir --local FOLDER`",
        )


def _check_records(group: Group, root: Path) -> None:
    """DVC writes these files in place; after a kill just then, each of its commands ends with an error of them."""
    for path in (Path("dvc.lock"), Path("demo/dvc.lock"), Path("teachers/dvc.lock"), root / ".dvc/tmp/rwlock"):
        if path.is_file() and not _is_whole(path):
            name = os.path.relpath(path)
            group.problem(
                f"{name} is empty or cut off: DVC was killed while it wrote it, and no command of DVC works",
                remedy=f"`rm {name}`, then `dvc repro`: what was finished comes back from DVC's cache",
            )


def _is_whole(path: Path) -> bool:
    """Whether a record of DVC's has the form that DVC asks for; what was cut off within an entry has not."""
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        if path.suffix != ".lock":
            return isinstance(json.loads(text), dict)
        stages = read_yaml(text, str(path))[0]["stages"].values()
        entries = [entry for stage in stages for kind in ("deps", "outs") for entry in stage.get(kind, ())]
        return all(stage["cmd"] and isinstance(stage.get("params", {}), dict) for stage in stages) and all(
            entry["path"] and None not in entry.values() for entry in entries
        )
    except (ParamsError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_git(group: Group, params_path: Path) -> None:
    if shutil.which("git") is None:
        group.warning("git is not installed: `dvc exp` needs it", remedy="install git")
        return
    if _git("rev-parse", "--verify", "--quiet", "HEAD") is None:
        group.warning(
            "there is no git commit here: `dvc exp run` starts from one", remedy="`git add -A && git commit -m start`"
        )
        return
    if not params_path.is_file():
        return
    changed = _git("status", "--porcelain", "--", str(params_path))
    if changed is None or changed.strip():
        group.warning(
            f"{params_path} has uncommitted changes: `dvc exp run` and `dvc params diff` compare with the commit",
            remedy=f"`git add {params_path} && git commit`, once it is what you want",
        )
    else:
        group.fact(f"{params_path} is committed")


def _git(*arguments: str) -> str | None:
    """What git prints, None where it fails. It takes no locks, so that nothing is written."""
    command: Sequence[str] = ("git", "--no-optional-locks", *arguments)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else None
