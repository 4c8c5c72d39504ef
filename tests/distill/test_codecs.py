"""What comes back from a codec is what the page promises, and what it costs is measured right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.distill.store.codecs import (
    CodecLoss,
    Dense,
    TopK,
    bytes_per_view,
    codec_of,
    kl_divergence,
    log_softmax,
)

TEMPERATURES = (1.0, 2.0, 4.0, 8.0)
FINITE = {"allow_nan": False, "allow_infinity": False, "width": 32}


def logits_of(min_classes=2, max_classes=30, most=40.0):
    shapes = st.tuples(st.integers(1, 3), st.integers(min_classes, max_classes))
    return shapes.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-most, most, **FINITE)))


def both(codec, logits):
    packed = codec.pack(logits)
    for name, array in codec.arrays().items():
        assert packed[name].dtype == array.dtype
        assert packed[name].shape == (*logits.shape[:-1], *array.inner)
    unpacked = codec.unpack(packed)
    assert unpacked.dtype == np.float32
    assert unpacked.shape == logits.shape
    return packed, unpacked


# dense


@given(logits_of())
def test_float32_keeps_every_bit(logits):
    assert np.array_equal(both(Dense("float32", logits.shape[-1]), logits)[1], logits)


@given(logits_of())
def test_float16_rounds_each_number(logits):
    assert np.array_equal(both(Dense("float16", logits.shape[-1]), logits)[1], logits.astype(np.float16))


def test_a_logit_too_large_for_the_type_becomes_infinite_for_the_caller_to_refuse():
    for codec in (Dense("float16", 3), TopK(3, 1)):
        assert np.isinf(codec.unpack(codec.pack(np.array([1e6, 0, 0], np.float32)))).any()


# topk


@st.composite
def logits_and_k(draw):
    logits = draw(logits_of(min_classes=3))
    return logits, draw(st.integers(1, logits.shape[-1] - 1))


@given(logits_and_k())
def test_the_largest_are_kept_with_their_classes(case):
    logits, k = case
    packed, unpacked = both(TopK(logits.shape[-1], k), logits)
    for row, kept, classes in zip(logits, packed["topk_logits"], packed["topk_classes"], strict=True):
        assert len(set(classes.tolist())) == k
        assert np.array_equal(row[classes].astype(np.float16), kept)
        assert (np.diff(row[classes]) <= 0).all()
        assert np.delete(row, classes).max() <= row[classes].min()
    assert (np.take_along_axis(unpacked, packed["topk_classes"].astype(int), axis=-1) == packed["topk_logits"]).all()


def test_of_equal_logits_those_of_the_lower_classes_are_kept():
    packed = TopK(5, 2).pack(np.array([1, 3, 1, 3, 3], np.float32))
    assert packed["topk_classes"].tolist() == [1, 3]


@given(logits_and_k())
@example((np.array([[-5.9604645e-08, 0.0, 0.0, 0.0]], np.float32), 1))  # the rest's mean rounds to what was kept
def test_the_top_class_stays(case):
    logits, k = case
    _, unpacked = both(TopK(logits.shape[-1], k), logits)
    rounded = logits.astype(np.float16)
    best = unpacked.argmax(axis=-1)
    assert (np.take_along_axis(rounded, best[:, None], -1)[:, 0] == rounded.max(axis=-1)).all()


def exact(codec, logits):
    """Unpacked without the rounding to float16: what the bound is about."""
    packed = codec.pack(logits)
    classes = packed["topk_classes"].astype(int)
    kept = np.take_along_axis(logits.astype(np.float64), classes, -1)
    others = logits.astype(np.float64)
    np.put_along_axis(others, classes, -np.inf, -1)
    top = others.max(axis=-1, keepdims=True)
    rest = top[:, 0] + np.log(np.exp(others - top).sum(axis=-1))
    other = rest - np.log(codec.num_classes - codec.k)
    whole = np.repeat(other[:, None], codec.num_classes, axis=-1)
    np.put_along_axis(whole, classes, kept, -1)
    return whole, kept, other


def kl_of(p_logits, q_logits, temperature):
    log_p, log_q = log_softmax64(p_logits / temperature), log_softmax64(q_logits / temperature)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def log_softmax64(logits):
    logits = np.asarray(logits, np.float64)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@given(logits_and_k(), st.sampled_from(TEMPERATURES))
def test_the_error_is_within_the_bound_of_the_page(case, temperature):
    logits, k = case
    codec = TopK(logits.shape[-1], k)
    whole, kept, other = exact(codec, logits)
    shift = kept.max(axis=-1)  # the bound does not change when all logits move
    kept_mass = np.exp((kept - shift[:, None]) / temperature).sum(axis=-1)
    mass = (codec.num_classes - k) * np.exp((other - shift) / temperature)
    spread = (kept[:, -1] - other) / temperature
    bound = np.log1p(mass / kept_mass) + mass / (kept_mass + mass) * spread
    assert (kl_of(logits, whole, temperature) <= bound + 1e-9).all()


@given(logits_and_k())
def test_at_temperature_1_the_kept_probabilities_are_exact_up_to_rounding(case):
    logits, k = case
    codec = TopK(logits.shape[-1], k)
    whole, _, _ = exact(codec, logits)
    classes = codec.pack(logits)["topk_classes"].astype(int)
    p, q = (np.take_along_axis(np.exp(log_softmax64(each)), classes, -1) for each in (logits, whole))
    assert np.allclose(p, q, rtol=1e-9)
    _, unpacked = both(codec, logits)
    q16 = np.take_along_axis(np.exp(log_softmax64(unpacked)), classes, -1)
    assert np.allclose(p, q16, rtol=4 * np.abs(logits).max() * 2**-11 + 1e-3, atol=1e-6)


def test_classes_beyond_those_that_float16_counts_are_exact():
    logits = np.zeros(3000, np.float32)
    wanted = [2999, 2049, 2051, 2500, 2047]
    logits[wanted] = [9, 8, 7, 6, 5]
    assert TopK(3000, 5).pack(logits)["topk_classes"].tolist() == wanted


def test_700_classes_take_at_most_29_bytes_a_view():
    assert bytes_per_view(TopK(700, 5)) == 24
    assert bytes_per_view(Dense("float16", 700)) == 1400
    assert bytes_per_view(Dense("float32", 700)) == 2800


# choice


def test_a_codec_is_made_from_what_it_says_of_itself():
    for codec in (Dense("float16", 7), Dense("float32", 7), TopK(7, 3)):
        assert codec_of(codec.attributes(), 7) == codec


@pytest.mark.parametrize("k", [0, -1, 7, 8])
def test_k_leaves_some_class_out(k):
    with pytest.raises(ValueError, match="top_k must be in 1 … 6 for 7 classes"):
        TopK(7, k)


def test_what_is_no_codec_is_refused():
    with pytest.raises(ValueError, match="no codec is called 'zip'; there are: float16, float32, topk"):
        codec_of({"name": "zip"}, 3)
    with pytest.raises(ValueError, match="uint16"):
        TopK(2**16, 5)


# what packing costs


@given(logits_of(min_classes=3), st.data())
def test_the_error_is_the_same_whatever_the_pieces(logits, data):
    codec = data.draw(st.sampled_from([Dense("float16", logits.shape[-1]), TopK(logits.shape[-1], 1)]))
    unpacked = codec.unpack(codec.pack(logits))
    cut = data.draw(st.integers(0, len(logits)))
    error = CodecLoss()
    for piece in (slice(cut), slice(cut, None)):
        if len(logits[piece]):
            error.add(logits[piece], unpacked[piece])
    found = error.attributes()
    assert found["top1_agreement"] == pytest.approx((logits.argmax(-1) == unpacked.argmax(-1)).mean(), abs=1e-6)
    for temperature in TEMPERATURES:
        kl = kl_of(logits, unpacked, temperature)
        assert found["mean_kl"][f"{temperature:g}"] == pytest.approx(kl.mean(), rel=0.01, abs=1e-6)
        assert found["max_kl"][f"{temperature:g}"] == pytest.approx(kl.max(), rel=0.01, abs=1e-6)


@given(logits_of())
def test_kl_is_that_of_the_definition_and_never_negative(logits):
    other = logits[:, ::-1]
    assert np.allclose(kl_divergence(logits, other), kl_of(logits, other, 1.0), atol=1e-6)
    assert (kl_divergence(logits, other) >= 0).all()
    assert np.allclose(np.exp(log_softmax(logits)).sum(axis=-1), 1)
