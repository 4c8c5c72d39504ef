"""Stages and other commands that write, run again and again in one tiny project from the same state: before them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import yaml
from paths import ROOT
from stage_server import Ended, Fault, StageServer
from tiny_project import Stage, contents, make_project, stages

OTHER = {"seed": 1, "prepare__short_side": 20, "enhancer": "gamma", "temperature": 2.0}
STORE, STUDENT, VIDEO = "data/soft_targets.zarr", "models/student.safetensors", "data/jump/jump0.mp4"
SECOND = "second/soft_targets.zarr"

STAGES = {stage.name: stage for stage in stages()}
# Commands that write and are no stages; study runs stages, mean-splits, bench and check print, export takes long
OTHERS = {
    name: Stage(name, line.split(), (out,))
    for name, out, line in (
        ("targets merge", "merged.zarr", f"targets merge {STORE} {SECOND} --out merged.zarr --force"),
        ("targets export", "told.parquet", f"targets export {STORE} --out told.parquet --force"),
        ("targets export npz", "told.npz", f"targets export {STORE} --out told.npz --force"),
        ("targets publish", "given", f"targets publish {STORE} --out given --force"),
        ("frames export", "shown", "frames export data/dark shown --limit 2 --force"),
        ("predict", "said.csv", f"predict {VIDEO} --model {STUDENT} --csv said.csv"),
        ("predict overlay", "overlay.mp4", f"predict {VIDEO} --model {STUDENT} --overlay overlay.mp4 --force"),
        ("recipe use", "new.yaml", "recipe use smoke --params new.yaml"),
        ("darken", "darker", "darken data/jump darker --processes 1"),
        ("demo-videos", "demo", "demo-videos --params demo.yaml --out demo --processes 1"),
        (
            "evaluate-model",
            "alone.csv",
            f"evaluate-model --model {STUDENT} --frames data/dark --manifest data/manifest.csv --split test "
            "--out alone.csv",
        ),
    )
}


FILE_BY_FILE = ("results/confusion", "results/tables", "shown", "darker")  # each file in these is whole by itself
LEDGER = "darken.jsonl"  # grows line by line, by design: what it does not tell of is darkened again


@dataclass(frozen=True)
class Scene:
    """A project in which all was run (and a copy of it), and one where that was with other parameters."""

    server: StageServer
    project: Path
    finished: Path
    other: Path

    def reset(self, writer: Stage, *, old: bool) -> None:
        """As before the command: its outs are not there, or those made with other parameters are."""
        clear(self.project / ".work")
        for out in writer.outs:
            path = self.project / out
            clear(path)
            if old and (self.other / out).exists():
                copy(self.other / out, path)
            elif path.parent != self.project and not any(path.parent.iterdir()):
                path.parent.rmdir()

    def restore(self, writer: Stage) -> None:
        """As after it."""
        for out in writer.outs:
            clear(self.project / out)
            copy(self.finished / out, self.project / out)

    def run(self, writer: Stage, fault: Fault | None = None, **options) -> Ended:
        """Run it, whatever comes of it."""
        return self.server.run(writer.arguments, self.project, fault=fault, **options)

    def count(self, writer: Stage, kinds: tuple[str, ...], *, old: bool) -> int:
        """How many calls of these kinds it makes."""
        self.reset(writer, old=old)
        ended = self.run(writer, Fault("count", 0, kinds))
        assert ended.code == 0, ended.err
        return ended.calls

    def is_right(self, writer: Stage) -> bool:
        """Whether the outs are those of the finished project."""
        return contents(self.project, writer.outs) == contents(self.finished, writer.outs)

    def torn(self, writer: Stage) -> list[str]:
        """Outs, or files in a folder that is filled one by one, that are neither the old nor the new ones."""
        found = []
        for out in writer.outs:
            is_, old, new = (contents(where, (out,)) for where in (self.project, self.other, self.finished))
            if out in FILE_BY_FILE:
                torn = [name for name in is_ if is_[name] not in (old.get(name), new.get(name))]
                found += [name for name in torn if not name.endswith(LEDGER)]
            elif is_ and is_ not in (old, new):
                found.append(out)
        return found

    def partials(self) -> list[str]:
        """What is left half-written outside of the work folder."""
        found = (path.relative_to(self.project) for path in self.project.rglob("*.partial"))
        return [str(path) for path in found if path.parts[0] != ".work"]


def make_scene(server: StageServer, folder: Path) -> Scene:
    """Run the chain twice, with other parameters the first time."""
    other, project = make_project(folder / "other", **OTHER), make_project(folder / "project", enhancer="zero_dce")
    for where in (other, project):
        _run_all(server, where, list(STAGES.values()))
    shutil.copytree(project, folder / "finished")
    return Scene(server, project, folder / "finished", other)


def add_others(scene: Scene) -> None:
    """Prepare what the other commands take, and run them."""
    for where in (scene.other, scene.project):
        _second_store(scene.server, where)
        demo = yaml.safe_load((ROOT / "demo/params.yaml").read_text())["smoke_videos"]
        demo |= {"classes": ["Jump", "Wave"], "num_groups": 2, "clips_per_group": 1, "seed": int(where == scene.other)}
        (where / "demo.yaml").write_text(yaml.safe_dump({"demo_videos": demo}))
        _run_all(scene.server, where, list(OTHERS.values()))
    clear(scene.other / "darker")  # it is refused where there is one with other parameters
    shutil.copytree(scene.project, scene.finished, dirs_exist_ok=True)


def _run_all(server: StageServer, project: Path, commands: list[Stage]) -> None:
    for command in commands:
        ended = server.run(command.arguments, project)
        assert ended.code == 0, (command.name, ended.err)


def _second_store(server: StageServer, project: Path) -> None:
    """Soft targets of another teacher for the same videos."""
    values = yaml.safe_load((project / "params.yaml").read_text())
    values["train_teacher"]["learning_rate"] = 0.005
    (project / "second.yaml").write_text(yaml.safe_dump(values))
    teacher, precompute = STAGES["train_teacher"].arguments, STAGES["precompute_soft_targets"].arguments
    made = ["--params", "second.yaml", "--out", "second/teacher.safetensors", "--curve", "second/curve.csv"]
    computed = ["--teacher", "second/teacher.safetensors", "--out", SECOND]
    _run_all(server, project, [Stage("", [*teacher, *made], ()), Stage("", [*precompute, *computed], ())])


def clear(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def copy(path: Path, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(path, to) if path.is_dir() else shutil.copy2(path, to)
