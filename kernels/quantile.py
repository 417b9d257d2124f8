"""The exact quantile of many numbers by their size, found a digit of eight bits at a time: the bits order them."""

import triton
import triton.language as tl

__all__ = ["ROUNDS", "count_digits", "limit_from", "next_digit", "quantile_limit", "size_bits"]

ROUNDS = tl.constexpr(4)
DIGITS = tl.constexpr(256)


@triton.jit
def size_bits(x):
    """|x| in float32 as whole numbers in the same order, NaN above all."""
    return tl.abs(x).to(tl.int32, bitcast=True)


@triton.jit
def count_digits(bits, wanted, prefix, ROUND: tl.constexpr):
    """How many of the wanted numbers that begin with `prefix` have each value of this round's digit."""
    upto = bits >> (8 * (ROUNDS - 1 - ROUND))
    return tl.histogram(upto & 255, DIGITS, mask=wanted & ((upto >> 8) == prefix))


@triton.jit
def next_digit(histogram, prefix, rank):
    """The prefix with the digit of the rank-th number, and its rank among those that begin so."""
    upto = tl.cumsum(histogram, 0)
    digit = tl.sum((upto < rank).to(tl.int32), 0)
    before = tl.sum(tl.where(tl.arange(0, DIGITS) < digit, histogram, 0), 0)
    return prefix * 256 + digit, rank - before


@triton.jit
def limit_from(bits):
    """The number with these bits, at least one."""
    return tl.maximum(bits.to(tl.float32, bitcast=True), 1.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def quantile_limit(x, wanted, rank):
    """The rank-th smallest |x| of a block's wanted numbers, at least one."""
    bits = size_bits(x)
    prefix = rank * 0
    for number in tl.static_range(ROUNDS):
        prefix, rank = next_digit(count_digits(bits, wanted, prefix, number), prefix, rank)
    return limit_from(prefix)
