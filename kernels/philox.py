"""The counter-based generator: normal numbers that depend on a key, a step and an element's index, and on nothing else.

Philox4x32-10 (Salmon et al. 2011) and Box-Muller, four numbers a counter. `reference.standard_normal` says the same in
PyTorch and csrc/noise.hpp in C++.
"""

import triton
import triton.language as tl

__all__ = ["standard_normal"]


@triton.jit
def negative_log(x):
    """-ln((x + 1/2) / 2³²) for 32 random bits x, by a polynomial on [√½, √2)."""
    u = x.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    bits = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    exponent = (bits >> 23).to(tl.float32)
    m = ((bits & 0x7FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    p = 0.070376836292 * m - 0.1151461031
    p = p * m + 0.11676998740
    p = p * m - 0.12420140846
    p = p * m + 0.14249322787
    p = p * m - 0.16668057665
    p = p * m + 0.20000714765
    p = p * m - 0.24999993993
    p = p * m + 0.33333331174
    square = m * m
    return -(exponent * 0.6931471805599453 + (m - 0.5 * square + p * m * square))


@triton.jit
def cosine_and_sine(x):
    """Of 2πx/2³² for 32 random bits x: the nearest quarter turn, and polynomials for the rest."""
    angle = x.to(tl.int32, bitcast=True)
    quarter = (angle >> 30) + ((angle >> 29) & 1)
    rest = ((angle << 2) >> 2).to(tl.float32) * 1.4629180792671596e-9
    square = rest * rest
    c = (2.443315711809948e-5 * square - 1.388731625493765e-3) * square + 4.166664568298827e-2
    c = (c * square - 0.5) * square + 1.0
    s = (-1.9515295891e-4 * square + 8.3321608736e-3) * square - 1.6666654611e-1
    s = s * square * rest + rest
    odd = (quarter & 1) != 0
    cosine = tl.where(odd, s, c)
    sine = tl.where(odd, c, s)
    return tl.where(((quarter + 1) & 2) != 0, -cosine, cosine), tl.where((quarter & 2) != 0, -sine, sine)


@triton.jit
def standard_normal(key, stream, step, start, BLOCK: tl.constexpr):
    """Elements [start, start + BLOCK) of an image's noise in float32; `start` is a multiple of four.

    Elements 4g to 4g + 3 come from the counter (g, step, stream, 0): the pairs (0, 1) and (2, 3) are cosine and sine.
    """
    group = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    zero = tl.zeros_like(group)
    a, b, c, d = tl.philox(key, group, zero + step.to(tl.uint32), zero + stream, zero)
    cosine_0, sine_0 = cosine_and_sine(b)
    cosine_1, sine_1 = cosine_and_sine(d)
    radius_0 = tl.sqrt(2.0 * negative_log(a))
    radius_1 = tl.sqrt(2.0 * negative_log(c))
    even = tl.join(radius_0 * cosine_0, radius_1 * cosine_1)
    odd = tl.join(radius_0 * sine_0, radius_1 * sine_1)
    return tl.reshape(tl.join(even, odd), [BLOCK])
