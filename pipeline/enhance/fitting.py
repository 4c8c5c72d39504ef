"""Fitting a learned enhancer to dark frames alone; a killed run resumes bit by bit.

Which frames and crops a step sees depends on the seed and the step's number alone. A frame goes in as a random square
crop, without flips or changes of light: the losses have no labels that could be overfitted.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.core.checkpoint import load_checkpoint, save_checkpoint
from pipeline.core.errors import Interrupted, ParamsError
from pipeline.core.progress import Advance, StopCheck
from pipeline.core.tables import Curve
from pipeline.enhance.fitting_losses import sci_losses, zero_dce_losses
from pipeline.enhance.learned import (
    NETWORKS,
    CalibrationNetwork,
    CurveNetwork,
    IlluminationNetwork,
    LearnedEnhancer,
    apply_curves,
    estimate_curves,
    shares_of_white,
)

if TYPE_CHECKING:
    from pipeline.enhance.fit import Fit

WEIGHT_DECAY = 1e-4
CLIP_GRAD_NORM = 0.1
NUM_STAGES = 3  # of SCI, which share their weights
NUM_CURVE_POINTS = 100  # of the curve, each the mean of the steps since the one before


@dataclass
class FittingState:
    """The state of a fit between two steps."""

    step: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # of the losses since the last point
    curve: Curve = field(default_factory=list)


class Fitter:
    """Fits one network; `run` does everything. Adam with the authors' weight decay and clipping."""

    def __init__(self, fit: Fit, *, checkpoint_path: Path, checkpoint_seconds: float) -> None:
        self.fit = fit
        self.checkpoint_path = checkpoint_path
        self.checkpoint_seconds = checkpoint_seconds
        self.side = min(fit.options.size, *(side for name in fit.train for side in fit.frames.shape(name)[1:]))
        torch.manual_seed(fit.seed)
        self.network = NETWORKS[fit.name]()
        self.learners = nn.ModuleDict({"network": self.network})
        if isinstance(self.network, CurveNetwork):
            initialise_curves(self.network)
        else:
            self.learners["calibration"] = CalibrationNetwork()
        self.learners.to(fit.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            self.learners.parameters(), lr=fit.options.learning_rate, weight_decay=WEIGHT_DECAY
        )
        self.progress = FittingState()

    def run(self, *, stop: StopCheck, advance: Advance) -> tuple[LearnedEnhancer, Curve]:
        """Fit to the end, from the checkpoint if there is one; the enhancer and the curve of its losses.

        `stop` raises Interrupted when the run must end: then the progress is saved first. `advance` counts the steps.
        Raises ParamsError when the loss or a gradient is not finite.
        """
        self._load_checkpoint()
        progress, options = self.progress, self.fit.options
        if progress.step:
            advance(progress.step, "from the checkpoint", earlier=True)
        interval = max(1, options.steps // NUM_CURVE_POINTS)
        saved = time.monotonic()
        self.learners.train()
        while progress.step < options.steps:
            loss = self._step()
            if progress.step % interval == 0 or progress.step == options.steps:
                self._end_interval()
            advance(1, f"loss {loss:.4f}")
            saved = self._save_when_due(saved, stop)
        self.network.cpu().eval().requires_grad_(False)
        enhancer = LearnedEnhancer(self.fit.name, self.network, options.curve_reduction, options.precision)
        return enhancer, progress.curve

    def _step(self) -> float:
        dark_BCHW, names = self._draw(self.progress.step)
        losses = self._losses(dark_BCHW)
        loss = torch.stack(list(losses.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(self.learners.parameters(), CLIP_GRAD_NORM)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            terms = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            raise ParamsError(
                f"{self.fit.name}: step {self.progress.step}: the loss is {loss.item()} ({terms}), "
                f"the norm of its gradient {norm.item()}; its videos:",
                findings=sorted(set(names)),
                remedy="lower fit_enhancer.learning_rate; if it happens again, look at these videos",
            )
        self.optimizer.step()
        self.progress.step += 1
        for name, value in losses.items():
            self.progress.sums[name] += value.item()
        self.progress.sums["steps"] += 1
        return loss.item()

    def _losses(self, dark_BCHW: Tensor) -> dict[str, Tensor]:
        if isinstance(self.network, IlluminationNetwork):
            return self._losses_of_stages(self.network, dark_BCHW)
        curves_BNHW = estimate_curves(self.network, dark_BCHW, reduction=self.fit.options.curve_reduction)
        bright_BCHW = apply_curves(dark_BCHW, curves_BNHW)
        return zero_dce_losses(dark_BCHW, bright_BCHW, curves_BNHW, exposure=self.fit.options.exposure)

    def _losses_of_stages(self, network: IlluminationNetwork, dark_BCHW: Tensor) -> dict[str, Tensor]:
        totals: dict[str, Tensor] = {}
        input_BCHW = dark_BCHW
        for _ in range(NUM_STAGES):
            illumination_BCHW = network(input_BCHW)
            for name, value in sci_losses(input_BCHW, illumination_BCHW).items():
                totals[name] = totals[name] + value if name in totals else value
            reflectance_BCHW = (dark_BCHW / illumination_BCHW).clamp(0, 1)
            input_BCHW = dark_BCHW + self.learners["calibration"](reflectance_BCHW)
        return totals

    def _draw(self, step: int) -> tuple[Tensor, list[str]]:
        """The frames of a step, (B, C, side, side), and their videos."""
        rng = np.random.default_rng([self.fit.seed, step])
        side = self.side
        crops, names = [], []
        for _ in range(self.fit.options.batch_size):
            name = self.fit.train[int(rng.integers(len(self.fit.train)))]
            num_frames, height, width = self.fit.frames.shape(name)
            number, top, left = (int(rng.integers(n)) for n in (num_frames, height - side + 1, width - side + 1))
            crops.append(self.fit.frames.read(name, [number], top=top, left=left, height=side, width=side))
            names.append(name)
        frames_BHWC = torch.from_numpy(np.concatenate(crops)).to(self.fit.device)
        return shares_of_white(frames_BHWC.permute(0, 3, 1, 2), self.fit.frames.levels), names

    def _end_interval(self) -> None:
        sums, step = self.progress.sums, self.progress.step
        count = sums.pop("steps")
        terms = {name: value / count for name, value in sums.items()}
        self.progress.curve.append({"step": step, "loss": sum(terms.values()), **terms})
        self.progress.sums = defaultdict(float)

    def _save_when_due(self, saved: float, stop: StopCheck) -> float:
        """Save at intervals, and before an interrupt ends the run; returns when it was saved last."""
        try:
            stop()
        except Interrupted:
            self._save_checkpoint()
            raise
        if time.monotonic() - saved < self.checkpoint_seconds:
            return saved
        self._save_checkpoint()
        return time.monotonic()

    def _save_checkpoint(self) -> None:
        progress = self.progress
        state = {
            "step": progress.step,
            "sums": dict(progress.sums),
            "curve": progress.curve,
            "learners": self.learners.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.checkpoint_path, state)

    def _load_checkpoint(self) -> None:
        state = load_checkpoint(self.checkpoint_path)
        if state is None:
            return
        self.progress = FittingState(state["step"], defaultdict(float, state["sums"]), state["curve"])
        self.learners.load_state_dict(state["learners"])
        self.optimizer.load_state_dict(state["optimizer"])


def initialise_curves(network: CurveNetwork) -> None:
    """Weights from N(0, 0.02), as in the authors' code; biases stay as PyTorch draws them."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
