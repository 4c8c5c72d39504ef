"""What a frame is: RGB, uint8, in display order. What its bytes mean is in pipeline/data/levels.py."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Frame = NDArray[np.uint8]  # (H, W, 3)
Frames = NDArray[np.uint8]  # (T, H, W, 3)
