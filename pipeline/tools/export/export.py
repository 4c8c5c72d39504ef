"""A model as one program for other runtimes, ONNX or torch.export, compared with the original before it is kept.

Axes: B batch, C channels, T frames, H, W, K classes.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.digest import digest_file
from pipeline.core.errors import DataError, ParamsError, StaleArtifactError
from pipeline.core.files import write_text_whole, written_whole
from pipeline.core.params import ClipParams
from pipeline.data.dataset import UniformViews
from pipeline.data.frame_store import FrameStore
from pipeline.data.views import read_view
from pipeline.evaluate.cost import cost_of
from pipeline.models.recognizer import ModelFile, Recognizer, require_levels
from pipeline.tools.export.card import card, describe
from pipeline.tools.export.onnx_file import DESCRIPTION, check_onnx_installed, open_onnx, write_onnx

Format = Literal["onnx", "torch"]
SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "torch": ".pt2"}
# Of a probability or a logit. Sums in another order move logits by 1e-6 to 1e-5, those of 34 layers by 2e-4
# (docs/export.md); a layer that is wrong moves them by more than this.
TOLERANCE = 1e-3
EXTRA_FILE = f"{DESCRIPTION}.json"  # of torch's archive, with the description


class _FramesToProbs(nn.Module):
    """uint8 frames (B, T, H, W, RGB) → probabilities (B, K)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, frames: Tensor) -> Tensor:
        probs_BK: Tensor = self.recognizer(frames).softmax(dim=1)
        return probs_BK


class _ClipToLogits(nn.Module):
    """Normalised float32 clips (B, RGB, T, H, W) → logits (B, K)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.network = recognizer.network

    def forward(self, clip: Tensor) -> Tensor:
        logits_BK: Tensor = self.network(clip)
        return logits_BK


Clips = tuple[Tensor, str]  # clip_BTHWC that a program is compared on, and where they come from, for the card


def drawn_clips(clip: ClipParams, num_clips: int) -> Clips:
    """Clips of noise, from nearly black to the whole range, always the same."""
    rng = np.random.default_rng(0)
    shape = (clip.num_frames, clip.size, clip.size, 3)
    brightest = np.geomspace(8, 256, num_clips).astype(int)
    clips = [torch.from_numpy(rng.integers(0, high, shape, dtype=np.uint8)) for high in brightest]
    return torch.stack(clips), f"{num_clips} drawn clips of noise"


def stored_clips(frames: FrameStore, recognizer: Recognizer, num_clips: int) -> Clips:
    """The middle clips of videos spread over a store.

    Raises DataError where it has too few videos, StaleArtifactError where its levels are not the network's.
    """
    require_levels(recognizer, frames.path, frames.levels)
    clip = recognizer.architecture.clip
    if len(frames.video_ids) < num_clips:
        raise DataError(
            f"{frames.path}: holds {len(frames.video_ids)} videos, {num_clips} are wanted for the comparison",
            remedy="lower --num-clips, or omit --frames: then clips are drawn",
        )
    numbers = np.linspace(0, len(frames.video_ids) - 1, num_clips).astype(int)
    views, clips = UniformViews(frames, clip, num_clips=1), []
    for number in numbers:
        video_id = frames.video_ids[number]
        clips.append(read_view(frames, video_id, views.lookup(video_id, 0)[0], clip))
    return torch.stack(clips), f"clips of {num_clips} videos of the frame store {frames.digest}"


def check_out(path: Path, program_format: Format) -> None:
    """Raise ParamsError for a name without the format's suffix, EnvironmentProblem where packages are missing."""
    suffix = SUFFIXES[program_format]
    if path.suffix != suffix or path.is_dir():
        raise ParamsError(f"{path}: expected the name of a file that ends with {suffix}, for {program_format}")
    if program_format == "onnx":
        check_onnx_installed()


def export(
    model: ModelFile,
    path: Path,
    *,
    program_format: Format,
    bare: bool,
    clips: Clips,
    tolerance: float,
    metrics: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Write a program with a batch of any size, and beside it its card in Markdown and JSON; returns the card's values.

    The written file is run on the CPU: on the first of `clips` alone, and on the others as a batch. Where an output
    differs from the model's by more than `tolerance`, StaleArtifactError is raised and no file is left.
    """
    check_out(path, program_format)
    recognizer = model.recognizer.cpu().eval()
    description = describe(model, cost_of(recognizer), bare=bare)
    program = _program(recognizer, description, bare=bare)
    with written_whole(path) as partial:
        if program_format == "onnx":
            write_onnx(program, partial, description)
        else:
            with partial.open("wb") as file:
                torch.export.save(program, file, extra_files={EXTRA_FILE: json.dumps(description, sort_keys=True)})
        difference, agreement = _compare(recognizer, _load(partial, program_format), bare, clips[0])
        if not difference <= tolerance:  # NaN is above any
            raise StaleArtifactError(
                f"{path}: not written: the program differs from the model by {difference:.3g} "
                f"on {clips[1]}, more than --tolerance {tolerance:g}",
                remedy="raise --tolerance where that is good enough, or export in the other --format",
            )
    size, digest = path.stat().st_size, digest_file(path)
    attributes = {
        **description,
        "file": {"name": path.name, "format": program_format, "bytes": size, "digest": digest},
        "comparison": {
            "clips": clips[1],
            "max_difference": difference,
            "top1_agreement": agreement,
            "tolerance": tolerance,
        },
        "metrics": metrics,
    }
    markdown, values = card_paths(path)
    write_text_whole(markdown, card(attributes))
    write_text_whole(values, json.dumps(attributes, indent=1, ensure_ascii=False) + "\n")
    return attributes


def card_paths(path: Path) -> tuple[Path, Path]:
    """The cards of a program, in Markdown and in JSON."""
    return path.with_name(f"{path.name}.md"), path.with_name(f"{path.name}.json")


def _program(recognizer: Recognizer, description: Mapping[str, Any], *, bare: bool) -> torch.export.ExportedProgram:
    """The traced program, without the names of source files: the same model gives the same bytes everywhere."""
    # a copy: of channels_last tensors torch.export.save has to guess where they end
    recognizer = copy.deepcopy(recognizer).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module: nn.Module = _ClipToLogits(recognizer) if bare else _FramesToProbs(recognizer)
    taken = description["input"]
    example = torch.zeros(2, *taken["shape"][1:], dtype=getattr(torch, taken["dtype"]))
    batch = {taken["name"]: {0: torch.export.Dim("batch")}}
    program = torch.export.export(module.eval(), (example,), dynamic_shapes=batch)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(key, None)
    return program


def _load(path: Path, program_format: Format) -> Callable[[Tensor], Tensor]:
    """The program of a file, in its own runtime."""
    if program_format == "onnx":
        onnx = open_onnx(path, num_threads=torch.get_num_threads())
        return lambda given: torch.from_numpy(onnx.run(given.numpy()))
    with path.open("rb") as file:  # a file, not a path: torch.export.load checks the suffix of a path
        return torch.export.load(file).module()


@torch.inference_mode()
def _compare(
    recognizer: Recognizer, program: Callable[[Tensor], Tensor], bare: bool, clip_BTHWC: Tensor
) -> tuple[float, float]:
    """The largest difference of an output, and the share of clips with the same best class."""
    wanted, found = [], []
    for part_BTHWC in (clip_BTHWC[:1], clip_BTHWC[1:]):
        logits_BK = recognizer(part_BTHWC)
        wanted.append(logits_BK if bare else logits_BK.softmax(dim=1))
        found.append(program(recognizer.normalised(part_BTHWC).contiguous() if bare else part_BTHWC))
    wanted_BK, found_BK = torch.cat(wanted), torch.cat(found)
    agreement = (wanted_BK.argmax(dim=1) == found_BK.argmax(dim=1)).float().mean()
    return float((wanted_BK - found_BK).abs().max()), float(agreement)
