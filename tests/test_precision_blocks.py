"""Block formats against the specification's rule, worked on plain numbers, and summation."""

import math

import numpy as np
import pytest

from course_utils.precision.blocks import MXFP4, MXFP8, NVFP4
from course_utils.precision.formats import E8M0, FP4_E2M1
from course_utils.precision.summation import kahan_sum, naive_sum, pairwise_sum


@pytest.mark.parametrize(("fmt", "bits"), [(MXFP8, 8.25), (MXFP4, 4.25), (NVFP4, 4.5)])
def test_bits_per_element(fmt, bits):
    assert fmt.bits_per_element == bits


def test_scale_follows_the_specification():
    x = np.zeros(32)
    x[5] = 10.0  # 2^floor(log2 10) = 8, the largest power of two in FP4 is 4: the shared scale is 2
    blocks = MXFP4.quantise(x)
    assert E8M0.decode(blocks.scales).item() == 2.0
    assert blocks.decode()[5] == FP4_E2M1.round(10.0 / 2.0) * 2.0


def test_one_block_does_not_see_another():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(64)
    alone = MXFP4.round(x)[:32]
    x[32:] *= 1e6
    assert np.array_equal(MXFP4.round(x)[:32], alone)


@pytest.mark.parametrize("fmt", [MXFP8, MXFP4, NVFP4])
def test_error_is_bounded_by_half_a_step_of_the_largest(fmt):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((7, 96)) * np.exp2(rng.uniform(-20, 20, (7, 1)))
    blocks = x.reshape(7, -1, fmt.size)
    error = np.abs(fmt.round(x).reshape(blocks.shape) - blocks)
    largest = np.abs(blocks).max(-1, keepdims=True)
    if fmt is NVFP4:  # a block far below the tensor's largest rounds its own scale coarsely, down to zero
        error, largest = error[-1:], largest[-1:]
        x = x[-1:]
        error = np.abs(fmt.round(x).reshape(1, -1, 16) - x.reshape(1, -1, 16))
    assert (error <= largest * 0.3).all()
    assert (error > 0).any()


def test_powers_of_two_survive_and_zeros_stay():
    x = np.array([1.0, -2.0, 4.0, 0.0] * 8)
    assert np.array_equal(MXFP4.round(x), x)
    assert np.array_equal(MXFP4.round(np.zeros((2, 32))), np.zeros((2, 32)))
    assert np.array_equal(NVFP4.round(np.zeros((2, 32))), np.zeros((2, 32)))


def test_sentences():
    with pytest.raises(ValueError, match="blocks of 32; the last axis has 33"):
        MXFP4.quantise(np.ones(33))
    with pytest.raises(ValueError, match="finite"):
        MXFP4.quantise(np.full(32, np.nan))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 1000, 1001])
def test_sums_of_small_integers_are_exact(n):
    x = np.random.default_rng(n).integers(-50, 50, (n, 3)).astype(np.float32)
    for total in (naive_sum, pairwise_sum, kahan_sum):
        assert np.array_equal(total(x), x.sum(0))
        assert total(x).dtype == np.float32


def test_naive_loses_more_than_pairwise_loses_more_than_kahan():
    x = np.random.default_rng(0).random((100_000, 1)).astype(np.float32)
    exact = math.fsum(x[:, 0].tolist())
    naive, pairs, kahan = (abs(float(f(x)[0]) - exact) / exact for f in (naive_sum, pairwise_sum, kahan_sum))
    assert kahan <= 2.0**-23 < naive
    assert pairs <= 17 * 2.0**-24
    assert naive > 4 * pairs


def test_naive_sum_stalls_at_two_to_the_24():
    x = np.ones(2**24 + 1000, np.float32)
    assert naive_sum(x) == 2**24
    assert pairwise_sum(x) == 2**24 + 1000
