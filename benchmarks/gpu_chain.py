"""The whole chain on a GPU, command by command as dvc.yaml has them, then what users do with its models.

    python -m benchmarks.gpu_chain --folder /tmp/chain [--device cuda]
    python -m benchmarks.gpu_chain --folder /tmp/chain --device cpu --tiny

Needs no DVC: it runs the `cmd` of each stage in a folder of its own. The demo, with R(2+1)D-18 on clips of 16×112×112
in bfloat16; then a baseline that is killed (SIGKILL) and goes on, Zero-DCE fitted and applied, predict, export, bench,
and a study of two arms in one process. A row is printed when its command ends; one that fails is a row, too, and the
others still run.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.params import load_params, overridden, params_text

ROOT = Path(__file__).parent.parent
TRAINED = ("train_teacher", "train_student")
LOSS_TOLERANCE = 0.02  # of the first epoch's loss: a GPU does not add in the same order twice
WITHOUT_DEVICE = ("demo_videos", "prepare", "measure_light", "evaluate", "report", "export")
GPU_SIZE = {
    "teacher": "r2plus1d_18", "student": "r2plus1d_18", "prepare.short_side": 128,
    "clip.num_frames": 16, "clip.frame_stride": 1, "clip.size": 112, "views.num_views": 8,
    **{f"{stage}.{key}": value for stage in TRAINED for key, value in {
        "width": None, "dropout": 0.0, "precision": "bfloat16", "num_workers": 8, "epochs": 8}.items()},
    "precompute_soft_targets.num_workers": 8,
}  # fmt: skip
TINY = {f"{stage}.{key}": value for stage in TRAINED for key, value in {"epochs": 1, "warmup_epochs": 0.0}.items()}


@dataclass(frozen=True)
class Command:
    """One line of the table."""

    name: str
    arguments: tuple[str, ...]
    killed: bool = False  # and run again


def commands_of(dvc_file: Path) -> Iterator[Command]:
    """The commands of a chain's stages, in its order: their `cmd` has no parameters, but for the demo's videos."""
    for text in re.findall(r"\n    cmd: >-\n((?:      \S.*\n)+)", dvc_file.read_text()):
        _, _, _, *arguments = text.split()
        yield Command(arguments[0], tuple(arguments))


def used(device: str, *, tiny: bool) -> Iterator[Command]:
    """What happens to a training, and what users do with the models of the chain."""
    out = ("--out", "killed.safetensors", "--curve", "killed.csv", "--checkpoint-seconds", "0")
    baseline = ("train_baseline", "--manifest", "data/manifest.csv", "--frames", "data/dark", *out)
    yield Command("train_baseline, killed", baseline, killed=True)
    fit = ("--manifest", "data/manifest.csv", "--dark", "data/dark")
    zero_dce = ("--enhancer", "zero_dce", *fit, "--out", "zero_dce.safetensors", "--curve", "zero_dce.csv")
    yield Command("fit_enhancer zero_dce", ("fit_enhancer", *zero_dce))
    applied = ("--dark", "data/dark", "--enhancer", "zero_dce.safetensors", "--out", "data/zero_dce")
    yield Command("enhance zero_dce", ("enhance", *applied))
    model = "models/student.safetensors"
    video = min((str(path) for path in Path("data").rglob("*.mp4")), default="data/no_video_was_rendered.mp4")
    yield Command("predict", ("predict", video, "--model", model))
    yield Command("export", ("export", model, "--out", "student.onnx", "--frames", "data/dark"))
    yield Command("bench", ("bench", model, *(() if tiny else ("--compile",))))
    arms = ("--arm", "light:", "--arm", "self: enhancer=none", "--seeds", "1", "--jobs", "1" if tiny else "4")
    yield Command("study, 2 arms", ("study", *fit, "--out", "study", "--no-test", *arms, "--device", device))


def process_of(command: Command, device: str) -> subprocess.Popen[str]:
    """The command, started: on the device, where it takes one."""
    arguments = [sys.executable, "-m", "stages", *command.arguments]
    if command.arguments[0] not in WITHOUT_DEVICE and "--device" not in arguments:
        arguments += ["--device", device]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(arguments, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(command: Command, device: str, limit: float, must_say: str = "") -> tuple[str, float, str]:
    """What failed, or nothing; seconds; and the last line that it said."""
    start = time.monotonic()
    with process_of(command, device) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            process.terminate()  # a study ends its steps, too: they would disturb what is measured next
            process.communicate()
            return f"longer than {limit:.0f} s", time.monotonic() - start, ""
    seconds = time.monotonic() - start
    said = out.strip() or err.strip() if process.returncode == 0 else err.strip()
    failed = "" if process.returncode == 0 else f"exit code {process.returncode}"
    if not failed and must_say not in err:
        failed = f"did not say: {must_say}"
    shares = "".join(f"; {line}" for line in err.splitlines() if ": time went to " in line)
    rate = f"; {num_frames() / seconds:.0f} frames/s" if command.arguments[0] == "enhance" and not failed else ""
    return failed, seconds, said.rpartition("\n")[2].replace("|", "/") + rate + shares


def run_killed(command: Command, device: str, limit: float) -> tuple[str, float, str]:
    """As `run`, with SIGKILL at two checkpoints of a second baseline: is its curve the first one's?"""
    start = time.monotonic()
    with process_of(command, device) as process:
        while process.poll() is None and time.monotonic() - start < limit:
            if list(Path(".work").glob("train_baseline-*/checkpoint.previous.pt")):
                break
            time.sleep(0.005)
        process.kill()
        process.communicate()
    if process.returncode != -signal.SIGKILL:
        return f"exit code {process.returncode} before it was killed", time.monotonic() - start, ""
    failed, seconds, said = run(command, device, limit, must_say="from the checkpoint")
    if failed:
        return failed, seconds, said
    whole, again = (curve(path) for path in ("results/curves/baseline.csv", "killed.csv"))
    said = "train loss, whole / killed: " + ", ".join(
        f"{row['train_loss']} / {other['train_loss']}" for row, other in zip(whole, again, strict=False)
    )
    if [row["learning_rate"] for row in whole] != [row["learning_rate"] for row in again]:
        failed = "other epochs or learning rates"
    first = float(whole[0]["train_loss"])
    if abs(float(again[0]["train_loss"]) - first) > LOSS_TOLERANCE * first:
        failed = "another loss"
    return failed, time.monotonic() - start, said


def curve(path: str) -> list[dict[str, str]]:
    """The rows of a training's table of epochs."""
    with Path(path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def num_frames() -> int:
    """Of all videos."""
    with Path("data/manifest.csv").open(encoding="utf-8") as file:
        return sum(int(row["num_frames"]) for row in csv.DictReader(file))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty one, or one that is not there yet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--limit", type=float, default=120, help="seconds of a command, at most (default: 120)")
    parser.add_argument("--tiny", action="store_true", help="the recipe smoke, an epoch each")
    options = parser.parse_args()
    recipe, changes = ("smoke", TINY) if options.tiny else ("demo", GPU_SIZE)
    options.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(options.folder)
    params = overridden(load_params(ROOT / f"configs/{recipe}.yaml"), changes, name="the chain on a GPU")
    Path("params.yaml").write_text(params_text(params))
    shutil.copytree(ROOT / "demo", "demo", dirs_exist_ok=True)
    print("| command | seconds | failed | its last line |\n|---|---|---|---|")
    videos = ("demo_videos", "--params", "demo/params.yaml", "--section", f"{recipe}_videos", "--out", f"data/{recipe}")
    ran = failures = 0
    chains = ([Command("demo_videos", videos)], commands_of(ROOT / "dvc.yaml"), used(options.device, tiny=options.tiny))
    for command in (command for commands in chains for command in commands):
        ran_as = run_killed if command.killed else run
        failed, seconds, said = ran_as(command, options.device, options.limit)
        print(f"| {command.name} | {seconds:.1f} | {failed} | {said} |", flush=True)
        ran, failures = ran + 1, failures + bool(failed)
    print(f"\n{ran} commands, {failures} failed")
    sys.exit(int(failures > 0))


if __name__ == "__main__":
    main()
