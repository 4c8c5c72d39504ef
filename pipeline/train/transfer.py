"""What goes to a GPU and comes from it while it computes, so that neither waits for the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.data.dataset import Batch


class Sender:
    """Sends batches to a device; a GPU copies one beside the step that it is busy with."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __call__(self, batch: Batch) -> Batch:
        """The batch on the device, for what is computed from now on."""
        if self.stream is None:
            return batch.to(self.device)
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream):
            sent = batch.to(self.device)
        computing.wait_stream(self.stream)

        def in_use(tensor: Tensor) -> Tensor:
            tensor.record_stream(computing)  # its memory is not given to a later batch before the step is done
            return tensor

        return sent.changed(in_use)


@dataclass(frozen=True)
class Numbers:
    """Values on the CPU that may still be on their way from a device."""

    values_M: Tensor
    arrived: torch.cuda.Event | None = None

    @classmethod
    def sent(cls, values_M: Tensor) -> Numbers:
        """Send them to the CPU without waiting for them."""
        if values_M.device.type != "cuda":
            return cls(values_M)
        on_the_way_M, arrived = values_M.to("cpu", non_blocking=True), torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(values_M.device))
        return cls(on_the_way_M, arrived)

    def read(self) -> list[float]:
        """The values, once they have arrived."""
        if self.arrived is not None:
            self.arrived.synchronize()
        values: list[float] = self.values_M.tolist()
        return values
