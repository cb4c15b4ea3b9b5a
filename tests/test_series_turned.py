"""Whether a head lies as its geometry says, told from pixels: the phantom's stacks, turned in every way."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ich.phantom import draw_patient
from ich.phantom.chances import Chances
from ich.schema.codes import Reason
from ich.studies.series.turned import check_turn

Stack = NDArray[np.int16]
SIZE = 128


def shrink(hu: Stack, size: int = SIZE) -> Stack:
    return np.stack([cv2.resize(each, (size, size), interpolation=cv2.INTER_AREA) for each in hu])


@pytest.fixture(scope="module")
def stacks() -> list[Stack]:
    return [shrink(study.hu) for patient in range(6) for study in draw_patient(41, patient, 96)]


TURNS: dict[str, tuple[Callable[[Stack], Stack], str]] = {
    "to the left": (lambda hu: np.rot90(hu, 1, axes=(1, 2)), "a quarter turn in the plane"),
    "half": (lambda hu: np.rot90(hu, 2, axes=(1, 2)), "half a turn in the plane"),
    "to the right": (lambda hu: np.rot90(hu, 3, axes=(1, 2)), "a quarter turn in the plane"),
    "upside down": (lambda hu: hu[:, ::-1], "half a turn in the plane"),
    "transposed": (lambda hu: hu.transpose(0, 2, 1), "a quarter turn in the plane"),
    "from the vertex": (lambda hu: hu[::-1], "slices from the vertex down"),
    "both": (lambda hu: hu[::-1, ::-1], "half a turn in the plane, slices from the vertex down"),
}


def test_a_head_that_lies_as_it_should_raises_nothing(stacks: list[Stack]) -> None:
    assert [check_turn(stack) for stack in stacks] == [[]] * len(stacks)


@pytest.mark.parametrize("name", TURNS)
def test_a_turned_head_is_named(stacks: list[Stack], name: str) -> None:
    turn, words = TURNS[name]
    for stack in stacks:
        (remark,) = check_turn(np.ascontiguousarray(turn(stack)))
        assert remark.code == Reason.TURNED
        assert remark.detail == f"the head seems to lie differently: {words}"


def test_a_mirrored_head_is_not_detected(stacks: list[Stack]) -> None:
    assert all(check_turn(np.ascontiguousarray(stack[:, :, ::-1])) == [] for stack in stacks)


@pytest.mark.parametrize("name", ["child", "hydrocephalus", "craniotomy", "coil", "tube", "wrap"])
def test_what_a_head_carries_does_not_turn_it(name: str) -> None:
    for patient in range(3):
        (study, *_) = draw_patient(43, patient, SIZE, Chances(**{name: 1.0}))
        assert check_turn(study.hu) == []
        assert check_turn(np.ascontiguousarray(np.rot90(study.hu, 1, axes=(1, 2)))) != []


def test_a_turned_head_without_face_or_table_is_still_detected(stacks: list[Stack]) -> None:
    """Cut off at the orbits, and all beside the head is air: a quarter turn and the order are still told."""
    for stack in stacks:
        upper = stack[len(stack) // 3 :].copy()
        upper[:, 112:] = -1000
        assert check_turn(upper) == []
        assert check_turn(np.ascontiguousarray(np.rot90(upper, 1, axes=(1, 2)))) != []
        assert check_turn(np.ascontiguousarray(upper[::-1])) != []


def test_nothing_is_said_of_air() -> None:
    assert check_turn(np.full((20, SIZE, SIZE), -1000, np.int16)) == []
