"""The demo: generated videos of eleven actions, and dark copies of any videos, both filmed by the camera of data/."""
