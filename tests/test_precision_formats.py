"""Every code of every small format against torch and ml_dtypes, and the properties rounding must have."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_utils.precision.formats import (
    BF16,
    E8M0,
    FORMATS,
    FP4_E2M1,
    FP6_E2M3,
    FP6_E3M2,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP32,
    FP64,
    TF32,
    Format,
)

# Formats of ml_dtypes that the course does not name, to prove that the description itself is general.
OTHERS = {
    Format("FP8 E4M3 with infinity", 4, 3, 7): ml_dtypes.float8_e4m3,
    Format("FP8 E3M4", 3, 4, 3): ml_dtypes.float8_e3m4,
    Format("FP8 E4M3 fnuz", 4, 3, 8, "fnuz"): ml_dtypes.float8_e4m3fnuz,
    Format("FP8 E5M2 fnuz", 5, 2, 16, "fnuz"): ml_dtypes.float8_e5m2fnuz,
    Format("FP8 E4M3 b11 fnuz", 4, 3, 11, "fnuz"): ml_dtypes.float8_e4m3b11fnuz,
}
IN_ML_DTYPES = {
    FP16: np.float16,
    BF16: ml_dtypes.bfloat16,
    FP8_E4M3: ml_dtypes.float8_e4m3fn,
    FP8_E5M2: ml_dtypes.float8_e5m2,
    FP6_E2M3: ml_dtypes.float6_e2m3fn,
    FP6_E3M2: ml_dtypes.float6_e3m2fn,
    FP4_E2M1: ml_dtypes.float4_e2m1fn,
    E8M0: ml_dtypes.float8_e8m0fnu,
    **OTHERS,
}
IN_TORCH = {
    FP16: torch.float16,
    BF16: torch.bfloat16,
    FP8_E4M3: torch.float8_e4m3fn,
    FP8_E5M2: torch.float8_e5m2,
    E8M0: torch.float8_e8m0fnu,
    **{
        f: getattr(torch, name)
        for f, name in zip(OTHERS, [None, None, "float8_e4m3fnuz", "float8_e5m2fnuz", None], strict=True)
        if name
    },
}
by_name = {"ids": lambda f: f.name if isinstance(f, Format) else ""}


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal to the bit: NaN where NaN, and zeros of the same sign."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    nan = np.isnan(a)
    return bool(
        np.array_equal(nan, np.isnan(b))
        and np.array_equal(a[~nan], b[~nan])
        and np.array_equal(np.signbit(a[~nan]), np.signbit(b[~nan]))
    )


def all_codes(fmt: Format) -> np.ndarray:
    return np.arange(1 << fmt.bits, dtype=np.uint16 if fmt.bits > 8 else np.uint8)


def hard_values(fmt: Format) -> np.ndarray:
    """float32 values that decide roundings: every number, midpoint and its neighbours, random, beyond the end."""
    exact = fmt.all_values()
    with np.errstate(over="ignore"):
        middle = ((exact[1:] + exact[:-1]) / 2).astype(np.float32)
        inf = np.float32(np.inf)
        rng = np.random.default_rng(1)
        spread = rng.standard_normal(20_000) * np.exp2(
            rng.uniform(np.log2(fmt.smallest_subnormal) - 2, np.log2(fmt.max) + 1, 20_000)
        )
        ends = np.array([0.0, -0.0, fmt.max * 1.5, -fmt.max * 1.5])
        x = np.concatenate([exact, middle, np.nextafter(middle, inf), np.nextafter(middle, -inf), spread, ends]).astype(
            np.float32
        )
    if fmt is E8M0:  # ml_dtypes 0.6 misrounds float32 subnormals to this type; zero and negatives have no code
        x = x[x >= np.finfo(np.float32).smallest_normal]
    return x[np.isfinite(x)]


@pytest.mark.parametrize(("fmt", "dtype"), IN_ML_DTYPES.items(), **by_name)
def test_decode_equals_ml_dtypes_for_every_code(fmt, dtype):
    codes = all_codes(fmt)
    with np.errstate(invalid="ignore"):
        assert same(fmt.decode(codes), codes.view(dtype).astype(np.float64))


@pytest.mark.parametrize(("fmt", "dtype"), IN_TORCH.items(), **by_name)
def test_decode_equals_torch_for_every_code(fmt, dtype):
    codes = all_codes(fmt)
    stored = torch.from_numpy(codes.view(np.int16) if fmt.bits == 16 else codes).view(dtype)
    assert same(fmt.decode(codes), stored.to(torch.float64).numpy())


@pytest.mark.parametrize(("fmt", "dtype"), IN_ML_DTYPES.items(), **by_name)
def test_rounding_equals_ml_dtypes(fmt, dtype):
    x = hard_values(fmt)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(dtype).astype(np.float64)
    assert same(fmt.round(x), expected)


@pytest.mark.parametrize("fmt", [FP16, BF16, FP8_E5M2], **by_name)
def test_rounding_equals_torch(fmt):
    x = hard_values(fmt)
    assert same(fmt.round(x), torch.from_numpy(x).to(IN_TORCH[fmt]).double().numpy())


@pytest.mark.parametrize("fmt", [FP8_E4M3], **by_name)
def test_rounding_equals_torch_inside_the_range(fmt):
    x = hard_values(fmt)
    x = x[np.abs(x) <= fmt.max]  # beyond it torch's versions differ: NaN in some, the largest number in others
    assert same(fmt.round(x), torch.from_numpy(x).to(IN_TORCH[fmt]).double().numpy())


def test_fp32_and_fp64_on_random_bit_patterns():
    rng = np.random.default_rng(2)
    bits32 = rng.integers(0, 1 << 32, 200_000, dtype=np.uint64).astype(np.uint32)
    bits64 = rng.integers(0, 1 << 64, 200_000, dtype=np.uint64)
    assert same(FP64.decode(bits64), bits64.view(np.float64))
    x = bits64.view(np.float64)
    assert same(FP64.round(x), x)
    with np.errstate(over="ignore", invalid="ignore"):  # what numpy's own casts say of infinity and signalling NaN
        assert same(FP32.decode(bits32), bits32.view(np.float32).astype(np.float64))
        assert same(FP32.round(x), x.astype(np.float32).astype(np.float64))


@pytest.mark.parametrize("fmt", [f for f in IN_ML_DTYPES if f.bits <= 16], **by_name)
def test_encode_undoes_decode(fmt):
    codes = all_codes(fmt)
    values = fmt.decode(codes)
    number = ~np.isnan(values)
    assert np.array_equal(fmt.encode(values[number]), codes[number])


@pytest.mark.parametrize("fmt", [FP16, BF16, FP8_E4M3, FP8_E5M2, FP4_E2M1], **by_name)
def test_truncation_is_nearest_below_and_never_overflows(fmt):
    x = np.abs(hard_values(fmt).astype(np.float64))
    numbers = fmt.all_values()
    expected = numbers[np.searchsorted(numbers, x, side="right") - 1]
    assert np.array_equal(fmt.round(x, rounding="toward_zero"), expected)
    assert np.array_equal(fmt.round(-x, rounding="toward_zero"), -expected)


@pytest.mark.parametrize("fmt", [FP16, BF16, FP8_E4M3, FP4_E2M1], **by_name)
def test_stochastic_rounding_takes_the_two_neighbours_and_is_right_on_average(fmt):
    rng = np.random.default_rng(3)
    numbers = fmt.all_values()
    for x in rng.uniform(0.3, 3.0, 5) * rng.choice([-1, 1], 5):
        draws = fmt.round(np.full(40_000, x), rounding="stochastic", rng=rng)
        above = np.searchsorted(numbers, x)
        assert set(np.unique(draws)) <= {numbers[above - 1], numbers[above]}
        gap = numbers[above] - numbers[above - 1]
        assert abs(draws.mean() - x) < 5 * gap / 2 / np.sqrt(len(draws))  # five standard errors
    exact = fmt.all_values()
    assert np.array_equal(fmt.round(exact, rounding="stochastic", rng=rng), exact)


def test_stochastic_rounding_needs_random_numbers():
    with pytest.raises(ValueError, match="needs rng"):
        FP16.round(0.1, rounding="stochastic")


@pytest.mark.parametrize("fmt", FORMATS.values(), **by_name)
def test_saturation(fmt):
    assert fmt.round(np.inf, saturate=True) == fmt.max
    assert fmt.round(fmt.max, saturate=False) == fmt.max
    if fmt is not FP64:
        beyond = fmt.round(2 * fmt.max)
        assert {"ieee": np.isposinf, "fn": np.isnan, "scale": np.isnan, "finite": lambda v: v == fmt.max}[fmt.specials](
            beyond
        )


# max, smallest normal, smallest subnormal, epsilon, as the specifications print them
LIMITS = {
    FP64: (1.7976931348623157e308, 2.2250738585072014e-308, 4.9406564584124654e-324, 2.0**-52),
    FP32: (3.4028234663852886e38, 1.1754943508222875e-38, 1.401298464324817e-45, 2.0**-23),
    TF32: ((2 - 2.0**-10) * 2.0**127, 2.0**-126, 2.0**-136, 2.0**-10),
    FP16: (65504.0, 2.0**-14, 2.0**-24, 2.0**-10),
    BF16: (3.3895313892515355e38, 1.1754943508222875e-38, 2.0**-133, 2.0**-7),
    FP8_E4M3: (448.0, 2.0**-6, 2.0**-9, 2.0**-3),
    FP8_E5M2: (57344.0, 2.0**-14, 2.0**-16, 2.0**-2),
    FP6_E2M3: (7.5, 1.0, 0.125, 2.0**-3),
    FP6_E3M2: (28.0, 0.25, 0.0625, 2.0**-2),
    FP4_E2M1: (6.0, 1.0, 0.5, 2.0**-1),
    E8M0: (2.0**127, 2.0**-127, 2.0**-127, 1.0),
}


@pytest.mark.parametrize(("fmt", "limits"), LIMITS.items(), **by_name)
def test_limits(fmt, limits):
    assert (fmt.max, fmt.smallest_normal, fmt.smallest_subnormal, fmt.epsilon) == limits


def test_fp16_overflows_from_65520_on():
    assert FP16.round(np.nextafter(65520.0, 0)) == 65504.0
    assert np.isposinf(FP16.round(65520.0))


def test_bit_string():
    assert FP32.bit_string(25.125) == "0 10000011 10010010000000000000000"
    assert FP8_E4M3.bit_string(-1.0) == "1 0111 000"
    assert E8M0.bit_string(1.0) == "01111111"


@settings(max_examples=200, deadline=None)
@given(e=st.integers(1, 6), m=st.integers(1, 6), x=st.floats(-100, 100))
def test_rounding_takes_the_nearest_number_in_any_format(e, m, x):
    fmt = Format("any", e, m, 2 ** (e - 1) - 1, "finite")
    numbers = fmt.all_values()
    assert abs(fmt.round(x) - x) == np.abs(numbers - x).min()


def test_sentences():
    with pytest.raises(ValueError, match="300 is no FP8 E4M3 code: FP8 E4M3 has 8 bits, codes 0 to 255"):
        FP8_E4M3.decode(300)
    with pytest.raises(ValueError, match="no code for NaN"):
        FP4_E2M1.encode(np.nan)
    with pytest.raises(ValueError, match="2\\^32 codes"):
        FP32.all_values()


def test_shapes_are_kept():
    for shape in itertools.chain([()], [(3,), (2, 3), (0,), (2, 0, 3)]):
        assert FP16.round(np.zeros(shape)).shape == shape
