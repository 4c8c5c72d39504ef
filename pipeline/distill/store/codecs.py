"""How a soft-target store keeps logits: all K as float16 or float32, or the k largest and the mass of the rest.

Packed logits are arrays by name; unpacked ones are K float32 numbers that go into any loss at any temperature. Where K
is large a dense row is wasteful: of 700 classes nearly all share a mass of a few thousandths.

Axes: `...` any leading axes, K classes, k classes kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_CLASSES = 2**16 - 1  # the largest uint16 marks a class that was never written
_NO_CLASS = 2**16 - 1


@dataclass(frozen=True)
class ArrayLayout:
    """An array of a store: its shape behind the leading axes, little-endian type, and what unwritten places hold."""

    inner: tuple[int, ...]
    dtype: np.dtype[Any]
    fill: float


@dataclass(frozen=True)
class Dense:
    """All K logits, rounded to float16 (2·K bytes a view) or as they are in float32 (4·K bytes).

    `attributes` is what a store records of its codec, `arrays` are the packed arrays in the order in which row digests
    take them. `pack` takes (..., K) finite logits, and makes one too large for the type infinite, which the caller must
    refuse; `unpack` gives (..., K) logits.
    """

    name: str
    num_classes: int

    def attributes(self) -> dict[str, object]:
        """The name alone."""
        return {"name": self.name}

    def arrays(self) -> dict[str, ArrayLayout]:
        """`logits` (..., K)."""
        return {"logits": ArrayLayout((self.num_classes,), _DENSE_TYPES[self.name], np.nan)}

    def pack(self, logits_K: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Round to the type."""
        with np.errstate(over="ignore"):
            return {"logits": logits_K.astype(_DENSE_TYPES[self.name])}

    def unpack(self, packed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The same numbers as float32."""
        return packed["logits"].astype(np.float32)


@dataclass(frozen=True)
class TopK:
    """The k largest logits in float16 with their classes, and the logsumexp of all others: 4·k + 4 bytes a view.

    Unpacked, the K − k other classes share their mass evenly: each has the logit R − log(K − k), where R is the
    logsumexp of their true logits. At temperature 1 the softmax of the kept classes is therefore exact up to float16.
    At T ≥ 1, before that rounding, KL(teacher ‖ unpacked) is at most

        log(1 + M/S) + M/(S + M) · (z_k − z_rest)/T,    S = Σ_kept exp(z/T),    M = (K − k) · exp(z_rest/T)

    (docs/soft-target-store.md derives it). R is kept, and not the logsumexp of all K: from that one the mass of a
    confident teacher's rest would be the difference of two nearly equal numbers.
    """

    num_classes: int
    k: int
    name: str = field(default="topk", init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.k < self.num_classes:
            raise ValueError(
                f"top_k must be in 1 … {self.num_classes - 1} for {self.num_classes} classes, not {self.k}"
            )
        if self.num_classes > MAX_CLASSES:
            raise ValueError(f"class ids are uint16: at most {MAX_CLASSES} classes, not {self.num_classes}")

    def attributes(self) -> dict[str, object]:
        """Name and k."""
        return {"name": self.name, "k": self.k}

    def arrays(self) -> dict[str, ArrayLayout]:
        """`topk_logits`, descending, and `topk_classes` (..., k); `rest_logsumexp` (...)."""
        return {
            "topk_logits": ArrayLayout((self.k,), np.dtype("<f2"), np.nan),
            "topk_classes": ArrayLayout((self.k,), np.dtype("<u2"), _NO_CLASS),
            "rest_logsumexp": ArrayLayout((), np.dtype("<f4"), np.nan),
        }

    def pack(self, logits_K: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """Keep the k largest; of equal logits those of the lower classes."""
        order_K = np.argsort(-logits_K, axis=-1, kind="stable")
        sorted_K = np.take_along_axis(logits_K, order_K, axis=-1)
        rest = sorted_K[..., self.k :].astype(np.float64)
        largest = rest[..., :1]
        rest_logsumexp = largest[..., 0] + np.log(np.exp(rest - largest).sum(axis=-1))
        with np.errstate(over="ignore"):
            return {
                "topk_logits": sorted_K[..., : self.k].astype("<f2"),
                "topk_classes": order_K[..., : self.k].astype("<u2"),
                "rest_logsumexp": rest_logsumexp.astype("<f4"),
            }

    def unpack(self, packed: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The kept logits in their places, the others' mean elsewhere, always below the smallest that was kept."""
        kept_k = packed["topk_logits"].astype(np.float32)
        rest = packed["rest_logsumexp"].astype(np.float32) - np.float32(np.log(self.num_classes - self.k))
        # below it, since of equal ones the lower class comes first: rounding must not change who does
        rest = np.minimum(rest, np.nextafter(kept_k[..., -1], np.float32(-np.inf)))
        logits_K = np.repeat(rest[..., None], self.num_classes, axis=-1)
        np.put_along_axis(logits_K, packed["topk_classes"].astype(np.int64), kept_k, axis=-1)
        return logits_K


LogitCodec = Dense | TopK
_DENSE_TYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}


def codec_of(attributes: Mapping[str, Any], num_classes: int) -> LogitCodec:
    """The codec of a store's attributes or of parameters: `name`, and `k` for topk; raises ValueError for others."""
    name = attributes["name"]
    if name == "topk":
        return TopK(num_classes, int(attributes["k"]))
    if name not in _DENSE_TYPES:
        raise ValueError(f"no codec is called {name!r}; there are: {', '.join(_DENSE_TYPES)}, topk")
    return Dense(name, num_classes)


def bytes_per_view(codec: LogitCodec) -> int:
    """Bytes that the packed logits of one teacher take for one view, before compression."""
    return sum(int(np.prod(array.inner, dtype=int)) * array.dtype.itemsize for array in codec.arrays().values())


@dataclass
class CodecLoss:
    """What packing costs, summed up piece by piece: KL(teacher ‖ unpacked) in nats, how often the top class stays."""

    TEMPERATURES = (1.0, 2.0, 4.0, 8.0)

    num_views: int = 0
    num_agreeing: int = 0
    kl_sums: list[float] = field(default_factory=lambda: [0.0] * len(CodecLoss.TEMPERATURES))
    kl_max: list[float] = field(default_factory=lambda: [0.0] * len(CodecLoss.TEMPERATURES))

    def add(self, logits_K: NDArray[np.float32], unpacked_K: NDArray[np.float32]) -> None:
        """Add (..., K) logits and what the codec makes of them."""
        agreeing = logits_K.argmax(axis=-1) == unpacked_K.argmax(axis=-1)
        self.num_views += agreeing.size
        self.num_agreeing += int(agreeing.sum())
        for index, temperature in enumerate(self.TEMPERATURES):
            kl = kl_divergence(logits_K / temperature, unpacked_K / temperature)
            self.kl_sums[index] += float(kl.sum())
            self.kl_max[index] = max(self.kl_max[index], float(kl.max()))

    def __str__(self) -> str:
        found = self.attributes()
        return (
            f"{found['top1_agreement']:.2%} of the top classes; mean KL in nats by temperature {found['mean_kl']}, "
            f"largest {found['max_kl']}"
        )

    def attributes(self) -> dict[str, Any]:
        """For the store, rounded to what is meaningful; temperatures are the keys."""
        keys = [f"{temperature:g}" for temperature in self.TEMPERATURES]
        return {
            "top1_agreement": round(self.num_agreeing / self.num_views, 6),
            "mean_kl": {key: _rounded(total / self.num_views) for key, total in zip(keys, self.kl_sums, strict=True)},
            "max_kl": {key: _rounded(most) for key, most in zip(keys, self.kl_max, strict=True)},
        }


def kl_divergence(p_logits_K: NDArray[np.float32], q_logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(softmax(p) ‖ softmax(q)) over the last axis, in nats."""
    log_p_K = log_softmax(p_logits_K)
    return np.asarray(np.maximum((np.exp(log_p_K) * (log_p_K - log_softmax(q_logits_K))).sum(axis=-1), 0))


def log_softmax(logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
    """Natural logarithm of the softmax over the last axis, in float64."""
    shifted_K = logits_K.astype(np.float64) - logits_K.max(axis=-1, keepdims=True)
    return np.asarray(shifted_K - np.log(np.exp(shifted_K).sum(axis=-1, keepdims=True)))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
