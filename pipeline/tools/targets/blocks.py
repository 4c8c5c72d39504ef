"""Several stores read side by side in the order of the videos' ids, with a few shards in memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

from pipeline.distill.store.store import Rows, SoftTargetStore


def blocks(stores: Sequence[SoftTargetStore]) -> Iterator[list[Rows]]:
    """All rows of all stores: from one block to the next ids ascend, in each a store may have any number of rows.

    Raises StaleArtifactError for a row that fails its checks.
    """
    shards = [map(store.read_shard, range(store.num_shards)) for store in stores]
    held = [next(each) for each in shards]
    while any(map(len, held)):
        bound = min(rows.video_ids[-1] for rows in held if len(rows))
        ends = [bisect_right(rows.video_ids, bound) for rows in held]
        yield [rows.take(slice(end)) for rows, end in zip(held, ends, strict=True)]
        for index, end in enumerate(ends):
            held[index] = held[index].take(slice(end, None))
            if not len(held[index]):
                held[index] = next(shards[index], held[index])
