"""Any binary floating-point format, bit by bit: encode, decode and round, from FP64 down to FP4 and the scale E8M0.

A number is stored as three bit fields: a sign, an exponent ``E`` and a mantissa ``M`` (also called fraction)::

    normal     E > 0:   (-1)^sign * 2^(E - bias) * (1 + M / 2^m)
    subnormal  E = 0:   (-1)^sign * 2^(1 - bias) * (0 + M / 2^m)

The formats differ in the widths of the fields, the bias, and in which codes they spend on infinity and NaN.
Every value of every format here is also a float64, so float64 arrays carry the values and rounding happens once.

Sources: IEEE 754-2019 (FP64, FP32, FP16); Kalamkar et al. 2019 (BF16); Micikevicius et al. 2022 (FP8);
OCP Microscaling Formats specification 1.0, 2023 (FP6, FP4, E8M0).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Codes = NDArray[np.uint64]
Values = NDArray[np.float64]
Rounding = Literal["nearest", "toward_zero", "stochastic"]

# Which codes are not finite numbers. The suffixes are those of torch and ml_dtypes.
#   ieee   the largest exponent holds infinity (M = 0) and the NaNs (M > 0)
#   fn     "finite, NaN": no infinity; NaN is the single code whose exponent and mantissa are all ones
#   fnuz   "finite, NaN, unsigned zero": no infinity; NaN sits on the code that would be -0
#   finite every code is a number
#   scale  a bare power of two: no sign, no mantissa, no zero; NaN is the code of all ones
Specials = Literal["ieee", "fn", "fnuz", "finite", "scale"]


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Args:
        name: what it is called.
        exponent_bits, mantissa_bits: widths of the two fields, in bits.
        bias: what is added to the true exponent to store it, so that the stored field is never negative.
        specials: which codes stand for infinity and NaN.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    specials: Specials = "ieee"

    # ---- the layout ---------------------------------------------------------------------------------------------

    @property
    def signed(self) -> bool:
        return self.specials != "scale"

    @property
    def bits(self) -> int:
        """Width of a code in bits."""
        return self.signed + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """The exponent of the smallest normal number; subnormals share it."""
        return -self.bias if self.specials == "scale" else 1 - self.bias

    @property
    def max_code(self) -> int:
        """The code of the largest finite number."""
        all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        match self.specials:
            case "ieee":
                return all_ones - (1 << self.mantissa_bits)
            case "fn" | "scale":
                return all_ones - 1
            case _:
                return all_ones

    @property
    def nan_code(self) -> int | None:
        """A code that decodes to NaN, or None when the format has none."""
        all_ones = (1 << (self.exponent_bits + self.mantissa_bits)) - 1
        match self.specials:
            case "ieee":
                return all_ones - (1 << (self.mantissa_bits - 1)) + 1  # the quiet NaN: exponent and first fraction bit
            case "fn" | "scale":
                return all_ones
            case "fnuz":
                return all_ones + 1
            case _:
                return None

    @property
    def max(self) -> float:
        """The largest finite number."""
        return float(self.decode(self.max_code))

    @property
    def smallest_normal(self) -> float:
        return float(np.ldexp(1.0, self.min_exponent))

    @property
    def smallest_subnormal(self) -> float:
        """The smallest positive number (for the scale type, which has no subnormals, its smallest power of two)."""
        return float(np.ldexp(1.0, self.min_exponent - self.mantissa_bits))

    @property
    def epsilon(self) -> float:
        """The gap between 1 and the next larger number, 2^-m."""
        return float(np.ldexp(1.0, -self.mantissa_bits))

    # ---- codes to values ----------------------------------------------------------------------------------------

    def fields(self, codes: ArrayLike) -> tuple[Codes, Codes, Codes]:
        """Codes of any shape -> (sign, exponent field, mantissa field), each of that shape."""
        c = np.asarray(codes, dtype=np.uint64)
        if c.size and int(c.max()) >= 1 << self.bits:
            last = (1 << self.bits) - 1
            raise ValueError(
                f"{int(c.max())} is no {self.name} code: {self.name} has {self.bits} bits, codes 0 to {last}"
            )
        e, m = np.uint64(self.exponent_bits), np.uint64(self.mantissa_bits)
        one = np.uint64(1)
        return c >> (e + m), (c >> m) & ((one << e) - one), c & ((one << m) - one)

    def decode(self, codes: ArrayLike) -> Values:
        """Codes (integers, any shape) -> their values as float64, same shape. Exact."""
        sign, exponent, mantissa = self.fields(codes)
        if self.specials == "scale":
            value = np.ldexp(1.0, exponent.astype(np.int64) - self.bias)
            return np.where(exponent == self.nan_code, np.nan, value)

        hidden_bit = np.where(exponent > 0, 1 << self.mantissa_bits, 0).astype(np.uint64)
        power = np.maximum(exponent, 1).astype(np.int64) - self.bias - self.mantissa_bits
        with np.errstate(over="ignore"):  # FP64's codes for infinity and NaN, replaced below
            value = np.ldexp((hidden_bit + mantissa).astype(np.float64), power)

        magnitude = np.asarray(codes, dtype=np.uint64) - (sign << np.uint64(self.bits - 1))
        if self.specials == "ieee":
            value = np.where(magnitude == self.max_code + 1, np.inf, np.where(magnitude > self.max_code, np.nan, value))
        elif self.specials == "fn":
            value = np.where(magnitude > self.max_code, np.nan, value)
        value = np.where(sign == 1, -value, value)
        if self.specials == "fnuz":
            value = np.where((sign == 1) & (magnitude == 0), np.nan, value)
        return value

    # ---- values to codes ----------------------------------------------------------------------------------------

    def encode(
        self,
        values: ArrayLike,
        *,
        rounding: Rounding = "nearest",
        saturate: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Codes:
        """Values (any shape) -> the codes of their rounded values, same shape.

        Args:
            rounding: ``nearest`` with ties to the even code (the default of IEEE 754), ``toward_zero`` (truncation), or
                ``stochastic``: up with a probability equal to the fraction that is cut off, so that the mean is right.
            saturate: where a value is too large, return the largest finite number instead of infinity (or of NaN in a
                format without infinity). Formats that have neither always saturate.
            rng: the random numbers of stochastic rounding.

        Raises:
            ValueError: for NaN in a format that has none, or ``stochastic`` without ``rng``.
        """
        x = np.asarray(values, dtype=np.float64)
        is_nan = np.isnan(x) | ((x <= 0) if self.specials == "scale" else False)
        if self.nan_code is None and is_nan.any():
            raise ValueError(f"{self.name} has no code for NaN: replace NaN before encoding")
        finite = np.where(np.isfinite(x), np.abs(x), 1.0)
        if self.specials == "scale":
            finite = np.where(finite > 0, finite, 1.0)

        # The numbers of a format are spaced 2^q apart, q being set by the leading bit of x. Count x in these steps.
        _, above = np.frexp(finite)  # finite = f * 2^above with f in [1/2, 1), so the leading bit weighs 2^(above - 1)
        leading = np.where(finite > 0, np.maximum(above - 1, self.min_exponent), self.min_exponent).astype(np.int64)
        steps = _ROUND[rounding](np.ldexp(finite, self.mantissa_bits - leading), rng)

        # Codes count upwards like the numbers they stand for, so a carry into the exponent field needs no special case.
        code = (leading - self.min_exponent) * (1 << self.mantissa_bits) + steps.astype(np.int64)
        if self.specials == "scale":
            code -= 1  # no subnormals: code 0 is already a normal number
        code = np.where(np.isinf(x), self.max_code + 1, np.maximum(code, 0))

        too_large = code > self.max_code
        if saturate or self.nan_code is None:
            code = np.where(too_large, self.max_code, code)
        else:
            if rounding == "toward_zero":  # truncation never leaves the finite numbers
                code = np.where(too_large & np.isfinite(x), self.max_code, code)
                too_large = code > self.max_code
            code = np.where(too_large, self.max_code + 1 if self.specials == "ieee" else self.nan_code, code)

        code = code.astype(np.uint64)
        if self.signed:
            negative = np.signbit(x) & ~is_nan
            if self.specials == "fnuz":
                negative &= (code != 0) & (code != self.nan_code)  # one zero, one NaN, both without a sign
            code |= negative.astype(np.uint64) << np.uint64(self.bits - 1)
        if self.nan_code is not None:
            code = np.where(is_nan, np.uint64(self.nan_code), code)
        return code.astype(np.uint64)

    def round(
        self,
        values: ArrayLike,
        *,
        rounding: Rounding = "nearest",
        saturate: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Values:
        """Values -> the nearest (or truncated, or stochastically chosen) numbers of this format, as float64."""
        return self.decode(self.encode(values, rounding=rounding, saturate=saturate, rng=rng))

    # ---- looking at it ------------------------------------------------------------------------------------------

    def bit_string(self, value: float) -> str:
        """The stored bits of ``value`` as text, fields apart: ``FP16.bit_string(1.5)`` is ``'0 01111 1000000000'``."""
        text = format(int(self.encode(value)), f"0{self.bits}b")
        start = int(self.signed)
        parts = (text[:start], text[start : start + self.exponent_bits], text[start + self.exponent_bits :])
        return " ".join(p for p in parts if p)

    def all_values(self) -> Values:
        """Every finite value, sorted, without duplicates. For formats of at most 16 bits.

        Raises:
            ValueError: for wider formats, whose values do not fit in memory.
        """
        if self.bits > 16:
            raise ValueError(f"{self.name} has 2^{self.bits} codes: list the values of a format of at most 16 bits")
        v = self.decode(np.arange(1 << self.bits))
        return np.unique(v[np.isfinite(v)])

    def __str__(self) -> str:
        return f"{self.name} (1/{self.exponent_bits}/{self.mantissa_bits})" if self.signed else self.name


def _stochastic(steps: Values, rng: np.random.Generator | None) -> Values:
    if rng is None:
        raise ValueError('rounding="stochastic" needs rng=numpy.random.default_rng(seed)')
    return np.floor(steps + rng.random(steps.shape))


_ROUND: dict[str, Callable[[Values, np.random.Generator | None], Values]] = {
    "nearest": lambda steps, rng: np.rint(steps),  # rint sends ties to the even integer
    "toward_zero": lambda steps, rng: np.trunc(steps),
    "stochastic": _stochastic,
}

FP64 = Format("FP64", 11, 52, 1023)
FP32 = Format("FP32", 8, 23, 127)
TF32 = Format("TF32", 8, 10, 127)  # FP32's range, FP16's precision: what tensor cores read of an FP32 input
FP16 = Format("FP16", 5, 10, 15)
BF16 = Format("BF16", 8, 7, 127)  # the upper half of an FP32
FP8_E4M3 = Format("FP8 E4M3", 4, 3, 7, "fn")
FP8_E5M2 = Format("FP8 E5M2", 5, 2, 15)
FP6_E2M3 = Format("FP6 E2M3", 2, 3, 1, "finite")
FP6_E3M2 = Format("FP6 E3M2", 3, 2, 3, "finite")
FP4_E2M1 = Format("FP4 E2M1", 2, 1, 1, "finite")
E8M0 = Format("E8M0", 8, 0, 127, "scale")

FORMATS: dict[str, Format] = {
    f.name: f for f in (FP64, FP32, TF32, FP16, BF16, FP8_E4M3, FP8_E5M2, FP6_E2M3, FP6_E3M2, FP4_E2M1, E8M0)
}
