"""The card of an exported model: what it is, what it was trained on, its input and output, and its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.core.errors import ParamsError, StaleArtifactError
from pipeline.core.text import code_span, markdown_table
from pipeline.evaluate.cost import Cost
from pipeline.evaluate.metrics_file import MODELS, read_evaluation
from pipeline.models.recognizer import LEAST_DEVIATION, OF_THE_CLIP, ModelFile, Recognizer

CARD_FORMAT_VERSION = 1

# What a model is, by the stage that trained it, and what that means; what no stage trained is a `model`
_ROLES = {
    "train_student": "student",
    "train_baseline": "baseline",
    "train_teacher": "teacher",
    "train_more_teacher": "teacher",
    "train_teacher_folds": "teacher",
}
_MEANINGS = {
    "student": "sees dark video as it is; learned from the labels and from soft targets of a teacher",
    "baseline": "sees dark video as it is; learned from the labels alone",
    "teacher": "sees light-enhanced video, not dark video as it is; learned from the labels",
    "model": "was not trained by a stage of dlkdd, so what it sees is not known",
}


def role_of(trained_on: Mapping[str, Any]) -> str:
    """`student`, `baseline` or `teacher`, by the stage that trained a model; `model` where none of dlkdd did."""
    return _ROLES.get(str(trained_on.get("stage")), "model")


def describe(model: ModelFile, cost: Cost, *, bare: bool) -> dict[str, Any]:
    """What a model is, in JSON values, for its program's file and for its card.

    bare: whether the program takes normalised clips and gives logits, in place of frames and probabilities.
    """
    recognizer = model.recognizer
    arch, clip = recognizer.architecture, recognizer.architecture.clip
    sizes = {"batch": "batch", "frames": clip.num_frames, "height": clip.size, "width": clip.size, "red green blue": 3}
    sizes["classes"] = len(model.class_names)

    def tensor(name: str, dtype: str, *axes: str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "axes": list(axes), "shape": [sizes[axis] for axis in axes]}

    frames = tensor("frames", "uint8", "batch", "frames", "height", "width", "red green blue")
    normalised = tensor("clip", "float32", "batch", "red green blue", "frames", "height", "width")
    return {
        "format": "dlkdd-model-card",
        "format_version": CARD_FORMAT_VERSION,
        "architecture": {key: value for key, value in asdict(arch).items() if key != "clip"},
        "digest": model.digest,
        "trained_on": model.trained_on,
        "class_names": list(model.class_names),
        "clip": clip.model_dump(),
        "levels": recognizer.levels,
        "pixels": _pixels(recognizer),
        "parameters": cost.parameters,
        "gmac_per_clip": round(cost.gmac, 6),
        "input": normalised if bare else frames,
        "output": tensor("logits" if bare else "probs", "float32", "batch", "classes"),
        "made_with": f"torch {torch.__version__}",
    }


def _pixels(recognizer: Recognizer) -> dict[str, Any]:
    """What pixels are normalised by: mean and deviation of shares of white, or those of each clip in grey levels."""
    if recognizer.mean_C is None or recognizer.std_C is None:
        return {"input_statistics": OF_THE_CLIP, "least_deviation": LEAST_DEVIATION}
    statistics = {"mean": recognizer.mean_C, "std": recognizer.std_C}
    return {name: [round(value, 6) for value in values_C.tolist()] for name, values_C in statistics.items()}


def metrics_of(path: Path, model: ModelFile) -> dict[str, Any]:
    """A model's part of the metrics of `dlkdd evaluate`, by the stage that trained it.

    Raises StaleArtifactError where the file is not one of evaluate's, or names another model in this one's place;
    ParamsError where the stage is not known.
    """
    role = role_of(model.trained_on)
    if role not in MODELS:
        raise ParamsError(
            f"--evaluation {path}: the model does not name the stage that trained it, so that its row is not known",
            remedy="export it without --evaluation",
        )
    metrics = read_evaluation(path)
    if metrics.models.get(role, model.digest) != model.digest:  # files of earlier versions do not name their models
        raise StaleArtifactError(
            f"--evaluation {path}: its {role} is not this model but {metrics.models[role]}",
            remedy="give the evaluation of this model, or export it without --evaluation",
        )
    found = {**metrics.of(role).model_dump(), "num_test_videos": metrics.num_test_videos}
    if role == "student":
        found["student_minus_baseline"] = metrics.student_minus_baseline.model_dump()
    return found


def card(attributes: Mapping[str, Any]) -> str:
    """The card in Markdown, of what `describe` gives with `file`, `comparison` and `metrics`."""
    role, file_name = role_of(attributes["trained_on"]), code_span(attributes["file"]["name"])
    arch, clip, file = (attributes[name] for name in ("architecture", "clip", "file"))
    compared, given, out = attributes["comparison"], attributes["input"], attributes["output"]
    digests = attributes["trained_on"].get("digests", {})
    options = ", ".join(f"{key} {value:g}" for key, value in arch.items() if isinstance(value, float | int))
    facts = {
        "architecture": f"{arch['name']} ({options})",
        "parameters": f"{attributes['parameters']:,}",
        "GMAC for a clip": f"{attributes['gmac_per_clip']:.3g}",
        "a clip": "{num_frames} frames, {frame_stride} apart, {size}×{size} pixels".format(**clip),
        "takes": f"`{given['name']}`: {_tensor(given)}",
        "gives": f"`{out['name']}`: {_tensor(out)}",
        "a byte": _BYTES[attributes["levels"]],
        "made with": attributes["made_with"],
    }
    trained = {name: code_span(str(digest)) for name, digest in {**digests, "this model": attributes["digest"]}.items()}
    limits = "\n".join(f"- {limit}" for limit in _limits(attributes, role))
    return f"""# {role.capitalize()}: {arch["name"]}, {len(attributes["class_names"])} actions in dark video

A network of dlkdd that {_MEANINGS[role]}. This file, {file_name}, is the whole of it as {_FORMATS[file["format"]]}:
{file["bytes"]:,} bytes, digest `{file["digest"]}`.

{markdown_table(("", ""), facts.items())}

Classes, in the order of the output: {", ".join(map(code_span, attributes["class_names"]))}.

## Use

```python
{_usage(attributes)}```

## Is it the same network?

The program was run from its file on the CPU, on {compared["clips"]}: one alone, the others as a batch. The largest
difference of an output to the original's is **{compared["max_difference"]:.2g}** (allowed: {compared["tolerance"]:g});
{compared["top1_agreement"]:.0%} of the clips have the same best class.

## What it was trained on

{markdown_table(("", "digest"), trained.items())}

{_pixels_text(attributes["pixels"], "by the caller" if given["name"] == "clip" else "inside the program")}

## How good it is

{_metrics_text(attributes["metrics"])}

## Limits

{limits}
"""


_BYTES = {
    "linear": "a value from 0 to 255",
    "companded": "the code 17·(√(v + 1) − 1), rounded, of a value v from 0 to 255 that was not rounded before",
}
_FORMATS = {"onnx": "an ONNX program", "torch": "a program of torch.export"}


def _tensor(attributes: Mapping[str, Any]) -> str:
    return f"{attributes['dtype']} [{', '.join(map(str, attributes['shape']))}] ({', '.join(attributes['axes'])})"


def _pixels_text(pixels: Mapping[str, Any], where: str) -> str:
    if "mean" not in pixels:
        return (
            f"Each clip's pixels are set to mean 0 and deviation 1 {where}, over all frames and colours; a deviation "
            f"below {pixels['least_deviation']:g} of 255 counts as that."
        )
    channels = zip(("red", "green", "blue"), pixels["mean"], pixels["std"], strict=True)
    table = markdown_table(("", "mean", "spread"), ((name, f"{mean:g}", f"{std:g}") for name, mean, std in channels))
    return f"Pixels, as shares of white, are normalised {where} with\n\n{table}"


def _limits(attributes: Mapping[str, Any], role: str) -> list[str]:
    limits = [
        f"It knows {len(attributes['class_names'])} actions alone: any video gets one of them, an empty room too.",
        "Only the size of the batch is free; frames, height and width of a clip are not.",
        "It was trained on the videos that the manifest names, and how it does on others is not known.",
        "A clip is a few frames: a longer video needs several clips, whose probabilities are averaged.",
    ]
    if role == "teacher":
        limits.insert(0, "Enhance the frames as those that it was trained on: it does not know dark ones.")
    weights = attributes["trained_on"].get("weights")
    if weights is not None:
        limits.append(
            f"It started from the weights {code_span(str(weights))}: look up their terms before you publish it."
        )
    return limits


def _metrics_text(metrics: Mapping[str, Any] | None) -> str:
    if metrics is None:
        return "Not stated when the model was exported (`--evaluation results/evaluation.json`)."
    rows = [
        (key, f"{value:.4g}")
        for key, value in metrics.items()
        if key not in ("num_test_videos", "student_minus_baseline")
    ]
    text = (
        f"On {metrics['num_test_videos']} test videos, by a metrics file that the exporter stated to be this model's:"
        f"\n\n{markdown_table(('', ''), rows)}"
    )
    gain = metrics.get("student_minus_baseline")
    if gain is not None:
        low, high = 100 * gain["top1_low"], 100 * gain["top1_high"]
        text += (
            f"\n\nAgainst the same network trained without the teacher: {100 * gain['top1']:+.1f} points of top-1, "
            f"95 % interval {low:+.1f} to {high:+.1f} over the videos, one seed."
        )
    return text


def _usage(attributes: Mapping[str, Any]) -> str:
    """Python that recognises the middle of `night.mp4`; tests/tools/export/test_card.py runs it."""
    clip, name, bare = attributes["clip"], attributes["file"]["name"], attributes["input"]["name"] == "clip"
    size, count, stride = clip["size"], clip["num_frames"], clip["frame_stride"]
    is_onnx = attributes["file"]["format"] == "onnx"
    is_coded = attributes["levels"] == "companded"
    box = "frame[top : top + side, left : left + side]" + (".astype('float32')" if is_coded else "")
    lines = [
        f"import cv2, json, numpy, pathlib, {'onnxruntime' if is_onnx else 'torch'}",
        "video, frames = cv2.VideoCapture('night.mp4'), []",
        "while (read := video.read())[0]:",
        "    frames.append(read[1][..., ::-1])  # to red, green, blue",
        f"start, side = max(0, len(frames) - {(count - 1) * stride + 1}) // 2, min(frames[0].shape[:2])",
        "top, left = (frames[0].shape[0] - side) // 2, (frames[0].shape[1] - side) // 2",
        f"shown = [frames[(start + {stride} * k) % len(frames)] for k in range({count})]",
        f"boxes = [{box} for frame in shown]",
        f"clip = numpy.stack([cv2.resize(box, ({size}, {size}), interpolation=cv2.INTER_AREA) for box in boxes])",
    ]
    if is_coded:
        lines.append("clip = numpy.rint(17 * (numpy.sqrt(clip + 1) - 1)).astype('uint8')")
    ready = "clip[None]"
    if bare:
        lines.append(f"clip = ({_normalised(attributes['pixels'])}).astype('float32')")
        ready = "clip.transpose(3, 0, 1, 2)[None]"
    if is_onnx:
        feed = f"{{'{attributes['input']['name']}': {ready}}}"
        lines.append(f"out = onnxruntime.InferenceSession({name!r}).run(None, {feed})[0][0]")
    else:
        lines.append(f"out = torch.export.load({name!r}).module()(torch.from_numpy({ready}))[0].detach().numpy()")
    lines.append(f"names = json.loads(pathlib.Path({name + '.json'!r}).read_text(encoding='utf-8'))['class_names']")
    lines.append("print(names[out.argmax()], out.max())")
    return "\n".join(lines) + "\n"


def _normalised(pixels: Mapping[str, Any]) -> str:
    """Python for the normalised `clip`."""
    if "mean" not in pixels:
        return f"(clip - clip.mean()) / max(clip.std(), {pixels['least_deviation']:g})"
    return f"(clip / 255 - {pixels['mean']}) / {pixels['std']}"
