"""The surprise at an image of 256 levels under a Gaussian, and its derivatives: the variational bound's first step."""

import triton
import triton.language as tl

__all__ = ["surprise"]


@triton.jit
def normal_cdf(z):
    """(1 + tanh √(2/π)(z + 0.044715 z³)) / 2 and its derivative."""
    below = tl.sigmoid(1.5957691216 * (z + 0.044715 * z * z * z))
    return below, below * (1.0 - below) * 1.5957691216 * (1.0 + 0.134145 * z * z)


@triton.jit
def surprise(x, away, log_variance):
    """-ln of the mass within 1/255 of x, to infinity at the outermost levels; its derivatives by away and log variance.

    `away` is x less the mean. The left tail stands for the right one, so no two numbers near one are subtracted.
    """
    lowest, highest = x < -0.999, x > 0.999
    inner = (x >= -0.999) & (x <= 0.999)
    mirrored = tl.where(lowest | (inner & (away < 0.0)), 1.0, -1.0)
    inverse = tl.exp(-0.5 * log_variance)
    upper_z = inverse * (mirrored * away + 1.0 / 255)
    lower_z = inverse * (mirrored * away - 1.0 / 255)
    upper, upper_density = normal_cdf(upper_z)
    lower, lower_density = normal_cdf(lower_z)
    outermost = lowest | highest
    lower = tl.where(outermost, 0.0, lower)
    lower_density = tl.where(outermost, 0.0, lower_density)
    mass = upper - lower
    held = tl.maximum(mass, 1e-12, propagate_nan=tl.PropagateNan.ALL)
    share = tl.where(mass < 1e-12, 0.0, 1.0 / held)
    by_away = -mirrored * inverse * (upper_density - lower_density) * share
    by_log_variance = 0.5 * (upper_z * upper_density - lower_z * lower_density) * share
    return -tl.log(held), by_away, by_log_variance
