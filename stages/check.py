"""Look for what can fail before it does: parameters, data, disk, DVC …"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pipeline.core.params import Params, load_params
from pipeline.core.progress import MapTasks, Result, Task
from pipeline.tools.check.findings import EXIT_CODES, Finding, Group, GroupName, exit_code
from pipeline.tools.check.machine import INSTALL, check_compiler, check_device, check_dvc, check_packages, dvc_root
from stages._shell import (
    PARAMS_PATH,
    DeviceOption,
    JsonOption,
    ParamsOption,
    print_json,
    printable,
    progress,
    stdout,
)


def main(
    *,
    params_path: ParamsOption = PARAMS_PATH,
    every_frame: Annotated[bool, typer.Option("--every-frame", help="Decode all videos from end to end.")] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that look at videos.", show_default="as many as cores")
    ] = None,
    device: DeviceOption = "auto",
    manifest_path: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="FILE", help="Compare every video with its digest in this manifest."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look for what can fail before it does: parameters, data, disk, DVC …

    Nothing is written. Problems must be fixed, warnings need not; each comes with what to do. The exit code is 0
    without problems; else that of the first group with one: 2 parameters, 3 data, 4 disk, environment or DVC.

    Example: dlkdd check --every-frame
    """
    groups = {name: Group(name) for name in EXIT_CODES}
    check_packages(groups["environment"])
    check_dvc(groups["dvc"], params_path)
    loaded: Params | None = None
    with groups["parameters"].catching():
        loaded = load_params(params_path)
        groups["parameters"].fact(f"{params_path}: complete, every value is in its range")
    try:
        _check_with_packages(groups, loaded, manifest_path, every_frame, processes, device)
    except (ImportError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # about a file; without a number it is about a library that a package cannot load
        groups["environment"].problem(f"a package cannot be imported: {error}", remedy=INSTALL)
        groups["data"].fact("not looked at: the environment lacks what it takes")
    code = exit_code(list(groups.values()))
    if as_json:
        num_problems = sum(group.num_problems for group in groups.values())
        found = {"exit_code": code, "num_problems": num_problems, "groups": [asdict(each) for each in groups.values()]}
        print_json(found, indent=2)
    else:
        _print(list(groups.values()))
    raise typer.Exit(code)


def _runner(num_processes: int | None, every_frame: bool) -> MapTasks:
    """Looks at videos; to start processes takes longer than to read the packets of a few hundred."""

    def run(function: Callable[[Task], Result], tasks: Sequence[Task], **options: Any) -> list[Result]:
        from stages._cluster import map_tasks

        few = len(tasks) < 500 and not every_frame
        return map_tasks(function, tasks, num_workers=num_processes or (1 if few else None), **options)

    return run


def _check_with_packages(
    groups: Mapping[GroupName, Group],
    loaded: Params | None,
    manifest_path: Path | None,
    every_frame: bool,
    num_processes: int | None,
    device_name: str,
) -> None:
    """The checks that need packages, imported here so that a missing one is a finding and not a traceback."""
    import torch

    from pipeline.core.device import choose_device
    from pipeline.tools.check.data import check_data, check_manifest
    from pipeline.tools.check.disk import check_shared_memory, check_space, check_work
    from pipeline.tools.check.params import Known, check_params

    environment, disk = groups["environment"], groups["disk"]
    device = torch.device("cpu")
    with environment.catching():
        device = choose_device(device_name)
    check_device(environment, device)
    check_work(disk)
    if loaded is None:
        groups["data"].fact("not looked at: the parameters could not be read")
        return
    data = check_data(
        groups["data"],
        loaded.prepare,
        loaded.clip,
        rendered=[f"data/{name}" for name in loaded.render],
        seed=loaded.seed,
        every_frame=every_frame,
        run=_runner(num_processes, every_frame),
        progress=progress,
    )
    if manifest_path is not None:
        check_manifest(groups["data"], loaded.prepare, manifest_path)
    known = Known(
        None if data.listing is None else list(data.listing.class_names.values()),
        None if data.splits is None else data.splits["train"],
        device,
        _processes_of_training(environment),
        0 if data.splits is None else data.splits["unlabelled"],
        [(video.group, video.class_name) for video in data.train],
    )
    check_params(groups["parameters"], loaded, known)
    check_space(disk, loaded, data.seen, dvc_root=dvc_root())
    check_shared_memory(environment, loaded)
    check_compiler(environment, loaded)


def _processes_of_training(environment: Group) -> int:
    wanted = os.environ.get("DLKDD_PROCESSES", "1")
    if wanted != "1":
        environment.fact(f"DLKDD_PROCESSES is {wanted}: trainings start that many processes")
    return int(wanted)  # stages.__main__ has refused what is not a number


def _print(groups: list[Group]) -> None:
    console = stdout()
    for group in groups:
        console.print(Text("DVC" if group.name == "dvc" else group.name.capitalize(), style="bold"))
        for fact in group.facts:
            _print_line(console, Text(printable(fact)), indent=2)
        for finding in sorted(group.findings, key=lambda finding: finding.level != "problem"):
            _print_finding(console, finding)
        console.print()
    num_problems = sum(group.num_problems for group in groups)
    num_warnings = sum(len(group.findings) for group in groups) - num_problems
    verdict = f"{num_problems or 'no'} problem{'s' * (num_problems > 1)}"
    verdict += f", {num_warnings} warning{'s' * (num_warnings > 1)}" if num_warnings else ""
    console.print(Text(verdict, style="bold red" if num_problems else "bold"))


def _print_finding(console: Console, finding: Finding) -> None:
    style = "bold red" if finding.level == "problem" else "yellow"
    _print_line(console, Text.assemble((f"{finding.level}: ", style), printable(finding.message)), indent=2)
    for detail in finding.details:
        _print_line(console, Text(f"- {printable(detail)}"), indent=4)
    if finding.remedy:
        _print_line(console, Text(f"help: {printable(finding.remedy)}"), indent=4)


def _print_line(console: Console, text: Text, *, indent: int) -> None:
    """On a terminal a long line wraps under its beginning; elsewhere it stays one line."""
    lines = list(text.wrap(console, max(40, console.width - indent))) if console.is_terminal else [text]
    for line in lines:
        line.rstrip()
        console.print(Text(" " * indent).append_text(line), soft_wrap=True)
