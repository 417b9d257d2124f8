"""The columns of a schedule's coefficient table: one row a timestep, one cache line a row in float32."""

from enum import IntEnum

__all__ = ["SAMPLING", "TRAINING", "WIDTH", "Column"]

TRAINING, SAMPLING = 0, 1  # streams of the noise generator


class Column(IntEnum):
    """What stands where in a row; ᾱ is the share of the signal's power that is left after step t, ᾱ' after step t-1."""

    SIGNAL = 0  # √ᾱ
    NOISE = 1  # √(1-ᾱ)
    INVERSE_SIGNAL = 2  # 1/√ᾱ
    NOISE_RATIO = 3  # √(1/ᾱ - 1)
    POSTERIOR_X0 = 4  # β√ᾱ' / (1-ᾱ)
    POSTERIOR_XT = 5  # √α(1-ᾱ') / (1-ᾱ)
    SMALL_VARIANCE = 6  # the posterior's, β(1-ᾱ')/(1-ᾱ)
    SMALL_LOG_VARIANCE = 7  # with the second step's in place of the first, which is zero
    LARGE_VARIANCE = 8  # β, but the posterior's second at the first step
    LARGE_LOG_VARIANCE = 9
    LOG_BETA = 10
    DDIM_SIGMA = 11  # √((1-ᾱ')/(1-ᾱ)) √(1-ᾱ/ᾱ')
    PREVIOUS_SIGNAL = 12  # √ᾱ'
    PREVIOUS_NOISE_VARIANCE = 13  # 1-ᾱ'
    SNR = 14  # ᾱ/(1-ᾱ)
    TIMESTEP = 15  # the step's number before respacing


WIDTH = len(Column)
