"""Files of which bytes changed: each is refused, or gives as many frames as it had.

The mutations are seeded. What no reader can see is a change that makes another valid video: the clock or the edit list
of an MP4 set to a value with which it hides other frames and contradicts nothing, or a file without a stated length
that ends just behind a whole fragment or cluster. Of 36,000 mutations with other seeds 3 were of these kinds. Their
bytes are others, so their digests are, and the manifest's tells.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from mutations import ENCODINGS, MUTATIONS, encode, mutated

from pipeline.core.digest import digest_file
from pipeline.core.errors import BrokenVideoError
from pipeline.videos import decoder as decoding


@pytest.fixture(autouse=True)
def _own_processes():
    yield
    decoding.end_idle()


@pytest.mark.fault("Videos", "mutated file", "Q")
@pytest.mark.parametrize("encoding", ENCODINGS, ids=lambda encoding: encoding.name)
def test_a_mutated_file_is_refused_or_has_all_frames(tmp_path, scale, cases, encoding):
    original = encode(tmp_path / encoding.name, encoding)
    data, digest = original.read_bytes(), digest_file(original)
    frames = list(decoding.read_frames(original))
    assert len(frames) == encoding.frames
    path = tmp_path / f"mutated-{encoding.name}"
    outcomes, kinds, wrong = Counter(), Counter(), []
    number = scale(150, 450)
    for seed in range(number):
        changed, kind = mutated(data, seed)
        path.write_bytes(changed)
        assert digest_file(path) != digest
        kinds[kind] += 1
        try:
            found = list(decoding.read_frames(path))
        except BrokenVideoError as error:
            outcomes["refused"] += 1
            if error.message.startswith(
                tuple(f"its decoder {ended}" for ended in ("crashed", "failed", "gave", "worked"))
            ):
                wrong.append(f"{kind}, seed {seed}: {error.message}")
            continue
        same = len(found) == len(frames) and all(map(np.array_equal, found, frames))
        outcomes["same frames" if same else "other pixels"] += 1
        if len(found) != len(frames):
            wrong.append(f"{kind}, seed {seed}: {len(found)} frames instead of {len(frames)}")
    assert not wrong, f"{encoding.name}, {dict(outcomes)}: {wrong}"
    assert outcomes["refused"] > number / 4
    assert len(kinds) == len(MUTATIONS) or number < 100
    cases(number)
