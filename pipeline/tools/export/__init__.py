"""A model for other runtimes: ONNX and torch.export programs, their model cards, and latency."""
