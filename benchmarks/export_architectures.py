"""Which networks export, and how far their programs are from them.

    python -m benchmarks.export_architectures [NAME …]

Every network with new weights and batch statistics of noise, at a small clip that it can take, bare: logits are
compared, on four clips, in onnxruntime and in torch. `spread` is the standard deviation of the logits, to hold the
difference against. Prints a table in Markdown; docs/export.md has it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from torch import nn

from pipeline.core.params import ClipParams
from pipeline.models.networks import MODELS
from pipeline.models.recognizer import Architecture, ModelFile, Recognizer, load_model, save_model
from pipeline.tools.export.export import SUFFIXES, drawn_clips, export

NUM_CLASSES = 11
SIZES = {"s3d": (13, 209), "mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224)}  # frames and pixels; others take 8×64²


def new_model(name: str, folder: Path) -> ModelFile:
    """A network of that name with new weights, through its file."""
    num_frames, size = SIZES.get(name, (8, 64))
    clip, kind = ClipParams(num_frames=num_frames, frame_stride=2, size=size), MODELS[name]
    torch.manual_seed(0)
    architecture = Architecture(name, NUM_CLASSES, clip, 8 if kind.has_width else None, 0.1, 0.1 * kind.has_drop_path)
    recognizer = settled(Recognizer(architecture, mean_C=[0.08, 0.07, 0.06], std_C=[0.1, 0.09, 0.08]))
    path = folder / f"{name}.safetensors"
    save_model(path, recognizer, class_names=[f"class {k}" for k in range(NUM_CLASSES)], trained_on={})
    return load_model(path)


def settled(recognizer: Recognizer) -> Recognizer:
    """The network with the batch statistics of some noise: with none its logits would hardly differ between clips."""
    norms = [module for module in recognizer.modules() if isinstance(module, nn.BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        recognizer.train()(drawn_clips(recognizer.architecture.clip, 4)[0])
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return recognizer.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="all, if none is given")
    names = parser.parse_args().names or list(MODELS)
    print("| network | clip | spread | onnx: difference | MiB | torch: difference | MiB |")
    print("|---|---|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            model = new_model(name, Path(folder))
            clip = model.recognizer.architecture.clip
            clips = drawn_clips(clip, 4)
            with torch.inference_mode():
                spread = float(model.recognizer(clips[0]).std())
            cells = [f"`{name}`", f"{clip.num_frames}×{clip.size}²", f"{spread:.2g}"]
            for kind, suffix in SUFFIXES.items():
                path = Path(folder) / f"{name}{suffix}"
                found = export(
                    model, path, program_format=kind, bare=True, clips=clips, tolerance=float("inf"), metrics=None
                )
                cells += [f"{found['comparison']['max_difference']:.1g}", f"{path.stat().st_size / 2**20:.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
