"""What enhancers do to the light of a dark store: mean luma, what is clipped, flicker and grain.

    python -m benchmarks.enhanced_light data/dark [--enhancer models/zero_dce.safetensors ...]

Mean and clipped shares (luma of 5 and less, of 250 and more) are of all frames; flicker and grain of the background, in
levels from one frame to the next (pipeline/tools/look/preview.py); `grain over contrast` divides the grain by the
standard deviation of luma, since whoever lifts the light lifts the grain with it. Classical enhancers have the
parameters of params.yaml; those with statistics are shown with a video's, with a frame's, and with those of 15 frames.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.in_memory import enhance_frames
from pipeline.core.params import load_params
from pipeline.data.frame_store import FrameStore
from pipeline.data.frames import shown
from pipeline.enhance.classical import Enhancer, Equalize, GammaAuto, levels_after
from pipeline.enhance.file import CLASSICAL, classical_from_params, load_enhancer
from pipeline.tools.look.preview import LUMA, mean_flicker, measure_flicker

MOST_FRAMES = 64  # of each video
PARAMS = load_params(Path(__file__).parent.parent / "params.yaml").fit_enhancer


def enhancers(files: Sequence[Path]) -> dict[str, Enhancer]:
    found: dict[str, Enhancer] = {name: classical_from_params(name, PARAMS) for name in CLASSICAL}
    for smoothing in (1, 15):
        found[f"gamma_auto, {smoothing} frames"] = GammaAuto(PARAMS.target_mean, "frame", smoothing)
        found[f"equalize, {smoothing} frames"] = Equalize("frame", smoothing)
    return dict(sorted(found.items())) | {path.stem: load_enhancer(path) for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dark", type=Path, help="a store of dark frames")
    parser.add_argument("--enhancer", type=Path, action="append", default=[], help="a learned one's file; repeatable")
    parser.add_argument("--videos", type=int, default=48, help="how many, spread over the store (default: 48)")
    options = parser.parse_args()
    store = FrameStore(options.dark)
    names = store.video_ids[:: max(1, len(store.video_ids) // options.videos)]
    videos = [store.read(name, range(min(MOST_FRAMES, store.shape(name)[0]))) for name in names]
    dark = [shown(video, store.levels) for video in videos]
    print(f"{len(videos)} videos of {options.dark}\n")
    print("enhancer                mean   black   white   flicker   grain   grain over contrast")
    for name, enhancer in enhancers(options.enhancer).items():
        after = levels_after(enhancer, store.levels)
        enhanced = [shown(enhance_frames(enhancer, video, store.levels), after) for video in videos]
        flicker = mean_flicker(measure_flicker(*pair) for pair in zip(dark, enhanced, strict=True))
        luma = [frames @ LUMA for frames in enhanced]
        mean, black, white = (
            np.mean([np.mean(values) for values in found])
            for found in (luma, [y <= 5 for y in luma], [y >= 250 for y in luma])
        )
        contrast = np.mean([y.std() for y in luma])
        assert flicker is not None, "nothing stands still in these videos"
        print(
            f"{name:22} {mean:5.0f} {black:7.1%} {white:7.1%} {flicker.light:9.2f} {flicker.grain:7.2f} "
            f"{flicker.grain / contrast:21.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
