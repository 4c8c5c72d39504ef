"""Rows of soft targets of one teacher that earlier runs computed, kept whatever the videos of the next run.

They stay when the store is published, since the next run has no store to take rows from: DVC deletes a stage's outs
before the stage starts. A row is found by its video's name, and the digest and shape of the frames that the teacher
saw, and with them those of the videos that its views are blended with; everything else that it depends on (the teacher,
the view policy, the clip, the batch size, the kind of device) is in the fingerprint of the work folder. Each teacher
has a folder of its own, so another one needs inference of its own alone. A part is a file with the rows of some videos,
the unit of work: it is whole or does not exist. Logits are kept as float32, so that another codec needs no teacher.

Axes: N videos, V views, M teachers (one), K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path

import numpy as np

from pipeline.core.digest import digest_json
from pipeline.core.errors import StaleArtifactError
from pipeline.core.weights import load_weights, save_weights
from pipeline.distill.store.rows import Rows

# A video's id, the digest of its frames' bytes, their shape, which raw bytes do not tell (black is black), and a digest
# of the same of its partners, empty where no view is a blend
Key = tuple[str, str, tuple[int, ...], str]

PARTNERS = "partners_digest"  # the cache's own array, of rows of mixed views: the last part of the key

_NUM_HELD_PARTS = 16  # where a grown data set mixes rows of old and new parts


def write_part(folder: Path, rows: Rows) -> None:
    """Write rows: the arrays of a store, but with `logits` (N, V, M, K) float32, and PARTNERS (N, 16) of mixed views.

    The same rows make the same file.
    """
    name = digest_json(_keys(rows))[:16]
    save_weights(folder / f"{name}.safetensors", rows.arrays, {"video_ids": list(rows.video_ids)})


class RowCache:
    """The rows of all whole parts in a folder; parts that are damaged on disk are ignored.

    In memory are an index of the keys and a few parts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._places: dict[Key, tuple[Path, int]] = {}
        self._whole: set[Path] = set()
        self._read = lru_cache(maxsize=_NUM_HELD_PARTS)(_read)
        self.refresh()

    def refresh(self) -> None:
        """Add the parts that were written since."""
        for path in sorted(set(self.folder.glob("*.safetensors")) - self._whole):
            try:
                rows = _read(path)
            except StaleArtifactError:  # progress, not an artifact: computed again
                continue
            self._whole.add(path)
            self._places.update((key, (path, row)) for row, key in enumerate(_keys(rows)))

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def rows(self, keys: Iterable[Key]) -> Iterator[Rows]:
        """The rows of these keys, in their order, in pieces; raises KeyError for one that is not cached."""
        places = (self._places[key] for key in keys)
        for path, group in groupby(places, key=lambda place: place[0]):
            rows = self._read(path).take([row for _, row in group])
            yield Rows(rows.video_ids, {name: array for name, array in rows.arrays.items() if name != PARTNERS})

    def remove_others(self, keys: Iterable[Key]) -> None:
        """Remove the files that hold none of these rows."""
        used = {self._places[key][0] for key in keys}
        for path in set(self.folder.glob("*.safetensors")) - used:
            path.unlink()


def _read(path: Path) -> Rows:
    arrays, attributes = load_weights(path)
    return Rows(tuple(attributes["video_ids"]), arrays)


def _keys(rows: Rows) -> Sequence[Key]:
    digests = [digest.tobytes().hex() for digest in rows.arrays["frames_digest"]]
    shapes = map(tuple, rows.arrays["frame_shape"][:, 0].tolist())
    partners = [digest.tobytes().hex() for digest in rows.arrays.get(PARTNERS, [np.zeros(0, np.uint8)] * len(rows))]
    return list(zip(rows.video_ids, digests, shapes, partners, strict=True))
