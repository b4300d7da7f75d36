"""Parts share no subject, have their sizes, and stay what they are."""

import pytest

from protocols.errors import BadInputError
from training.subjects import split_by_subject


def index(train: int, validation: int) -> dict[str, dict[str, str]]:
    names = [f"train/{number}" for number in range(train)] + [f"validation/{number}" for number in range(validation)]
    return {name: {"source": f"scanner {name}"} for name in names}


def test_seventy_fifteen_fifteen() -> None:
    split = split_by_subject(index(30, 10))
    assert split.subjects == (28, 6, 6)
    assert sorted(split.training + split.validation + split.test) == sorted(index(30, 10))
    assert all(name.startswith("validation/") for name in split.test)  # networks that exist learned from train/*
    assert sum(name.startswith("train/") for name in split.validation) == 2
    assert split == split_by_subject(dict(reversed(index(30, 10).items())))


def test_few_subjects_leave_one_for_each_small_part() -> None:
    split = split_by_subject(index(4, 2))
    assert split.subjects == (4, 1, 1)
    assert split.training == tuple(f"train/{number}" for number in range(4))
    assert {*split.validation, *split.test} == {"validation/0", "validation/1"}


def test_series_of_one_source_stay_together() -> None:
    listed = index(6, 3)
    for name in ("train/0", "train/5", "validation/0"):
        listed[name]["source"] = "one head"
    split = split_by_subject(listed)
    assert {"train/0", "train/5", "validation/0"} <= set(split.training)  # learned from in part is learned from
    assert sum(split.subjects) == 7


def test_an_excluded_series_is_no_subject() -> None:
    assert split_by_subject(index(4, 2), exclude=["3"]).subjects == (3, 1, 1)
    with pytest.raises(BadInputError, match="lists 2 subjects; a split into three parts needs 3"):
        split_by_subject(index(1, 1))
