"""Which tables and capacities matching takes, and what it refuses."""

from typing import Any

import numpy as np
import pytest
import torch

from gdui.labeling.match import hungarian, stable_match


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"priority": [[np.nan, 1]]}, ValueError, "priority holds NaN"),
        ({"priority": [[np.inf, 1]]}, ValueError, "priority holds NaN or infinity"),
        ({"priority": [1, 2]}, ValueError, r"priority must have 2 axes, not 1"),
        ({"priority": [["a"]]}, TypeError, "priority must be real numbers"),
        ({"priority": np.zeros((2, 2)), "class_priority": np.zeros((2, 3))}, ValueError, r"\(2, 2\), not \(2, 3\)"),
        ({"priority": np.zeros((1, 1)), "class_priority": [[np.nan]]}, ValueError, "class_priority holds NaN"),
        ({"priority": np.zeros((1, 1)), "tie_break": [np.zeros((1, 1)), [[np.nan]]]}, ValueError, r"tie_break\[1\]"),
        ({"priority": np.zeros((2, 2)), "tie_break": np.zeros((1, 2))}, ValueError, "tie_break must have"),
        ({"priority": np.zeros((2, 2)), "capacity": -1}, ValueError, "capacity must be at least 0"),
        ({"priority": np.zeros((2, 2)), "capacity": [1]}, ValueError, "capacity must have 2 entries, not 1"),
        ({"priority": np.zeros((2, 2)), "capacity": 0.5}, TypeError, "capacity must be integers"),
        ({"priority": np.zeros((2, 2)), "threads": 0}, ValueError, "threads must be at least 1"),
        ({"priority": np.zeros((2, 2)), "threads": 2.5}, TypeError, "threads must be a whole number, not float"),
        ({"priority": [[2**53, 2**53 + 1]]}, ValueError, "priority holds 9007199254740993, which float64 cannot"),
        ({"priority": [[-(2**53) - 1]]}, ValueError, "priority holds -9007199254740993"),
        ({"priority": np.array([[2**64 - 1]], np.uint64)}, ValueError, "priority holds 18446744073709551615"),
        ({"priority": [[1, 2], [3]]}, ValueError, "priority must be an array of 2 axes"),
        (
            {"priority": np.zeros((2, 2)), "tie_break": [[1, 2], [3]]},
            ValueError,
            "tie_break must be an array of 2 axes",
        ),
        ({"priority": np.zeros((2, 2)), "tie_break": [[[1, 2], [3]]]}, ValueError, r"tie_break\[0\] must be an array"),
        ({"priority": np.zeros((2, 2)), "capacity": [[1], [1, 2]]}, ValueError, "capacity must be an array of 1 axis"),
        ({"priority": np.zeros((2, 2)), "capacity": [[1, 2]]}, ValueError, "capacity must have 1 axis, not 2"),
        (
            {"priority": np.zeros((2, 2)), "capacity": 2**63},
            ValueError,
            "must be below 9223372036854775808, but holds 9",
        ),
        ({"priority": np.zeros((2, 2)), "capacity": 2**64}, TypeError, "capacity must be integers"),
        (
            {"priority": np.zeros((2, 2)), "capacity": np.ma.array([1, 5], mask=[0, 1])},
            TypeError,
            "capacity is a masked array",
        ),
        ({"priority": torch.zeros(2, 2).bfloat16()}, TypeError, "priority can't be read as an array: .*BFloat16"),
        ({"priority": torch.zeros(2, 2, requires_grad=True)}, TypeError, "priority can't be read as an array: .*grad"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        stable_match(**arguments)


def test_a_huge_capacity_is_just_enough_for_all() -> None:
    found = stable_match(np.zeros((3, 2)), capacity=2**62)
    assert found.class_of_cluster.tolist() == [0, 0, 0]
    assert found.gap == 0


def test_a_capacity_beyond_64_bits_is_refused_by_hungarian_too() -> None:
    with pytest.raises(ValueError, match="capacity must be below 9223372036854775808"):
        hungarian(np.zeros((3, 2)), capacity=2**63)


def test_whole_numbers_that_floats_can_hold_are_taken() -> None:
    assert stable_match([[2**53 - 1, 2**53]]).class_of_cluster.tolist() == [1]
    assert stable_match([[2**60, 2**61]]).class_of_cluster.tolist() == [1]


def test_the_byte_order_does_not_matter(rng: np.random.Generator) -> None:
    table = rng.random((6, 5)).astype(np.float32)
    expected = stable_match(table, tie_break=table).class_of_cluster
    found = stable_match(table.astype(">f4"), tie_break=table.astype(">f8"), capacity=np.ones(5, ">i2"))
    np.testing.assert_array_equal(found.class_of_cluster, expected)


def test_a_mask_is_not_lost_in_silence() -> None:
    with pytest.raises(TypeError, match="priority is a masked array"):
        stable_match(np.ma.masked_greater(np.eye(2), 0.5))
