"""TrainingOrder: the steps of `mft train` as items of a dataset."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from mft_cli.data.ordered import TrainingOrder, ValidationOrder, tokenized
from mft_cli.data.pack import Order
from mft_cli.errors import UserError


def rows(n: int) -> list[dict[str, Any]]:
    return [{"input_ids": [9, *range(i, i + 4)], "completion_mask": [0, 0, 1, 1, 1]} for i in range(n)]


def test_items_are_the_steps_of_the_trainings_order():
    examples = tokenized(rows(10))
    items, order = TrainingOrder(examples, global_batch_size=4, epochs=2, seed=5), Order(examples, 5, 4)
    assert len(items) == 6 * 4  # three steps an epoch, the last one of each filled up
    for step in range(6):
        epoch, chosen = order.step(step)
        mine = [items[4 * step + i] for i in range(4)]
        assert [item["epoch"] for item in mine] == [epoch] * 4
        assert {item["progress"] for item in mine} == {step / 6}
        assert [item["input_ids"].tolist() for item in mine[: len(chosen)]] == [
            rows(10)[i]["input_ids"] for i in chosen
        ]
        assert all(not item["example"].loss_mask.any() for item in mine[len(chosen) :])


def test_parts_of_an_epoch_and_steps():
    assert len(TrainingOrder(rows(10), global_batch_size=4, epochs=0.5)) == 2 * 4
    assert len(TrainingOrder(rows(10), global_batch_size=4, epochs=9, steps=5)) == 5 * 4


def test_an_item_does_not_depend_on_those_read_before():
    forward, backward = (TrainingOrder(rows(10), global_batch_size=4, epochs=3) for _ in range(2))
    last_first = [backward[i]["input_ids"].tolist() for i in reversed(range(len(backward)))]
    assert [item["input_ids"].tolist() for item in forward] == last_first[::-1]


def test_a_worker_gets_a_copy():
    items = TrainingOrder(rows(10), global_batch_size=4)
    assert pickle.loads(pickle.dumps(items))[3]["input_ids"].tolist() == items[3]["input_ids"].tolist()
    assert len(items[3]["example"].tokens) == len(items[3]["input_ids"])  # and no other example's tokens


def test_validation_keeps_its_order_and_has_no_progress():
    items = list(ValidationOrder(rows(3)))
    assert [item["input_ids"].tolist() for item in items] == [row["input_ids"] for row in rows(3)]
    assert {item["progress"] for item in items} == {None}


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"completion_mask": [0, 0, 1]}, [False, False, True]),
        ({"assistant_masks": [0, 1, 1]}, [False, True, True]),
        ({"labels": [-100, -100, 7]}, [False, False, True]),
        ({}, [True, True, True]),
    ],
)
def test_where_the_loss_is_in_other_libraries_columns(columns: dict[str, list[int]], expected: list[bool]):
    assert tokenized([{"input_ids": [5, 6, 7], **columns}]).loss_mask.tolist() == expected


def test_an_example_is_known_by_its_ids_or_by_its_name():
    first, same, other, named = tokenized([*rows(1), *rows(1), rows(2)[1], {**rows(1)[0], "example": 12}]).ids
    assert first == same
    assert len({first, other, named}) == 3
    assert named == 12


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ([{"text": "Hello"}], r"row 0 has no input_ids \(it has text\): tokenize"),
        ([{"input_ids": [1, 2], "completion_mask": [1]}], "row 0 has 2 input_ids and 1 entries"),
        ([], "no example to train on"),
    ],
)
def test_rows_that_are_none(bad: list[dict[str, Any]], told: str):
    with pytest.raises(UserError, match=told):
        TrainingOrder(bad, global_batch_size=2)


def test_an_array_of_ids_is_taken_too():
    assert tokenized([{"input_ids": np.array([1, 2])}]).tokens.tolist() == [1, 2]


def test_as_a_dataset_of_the_datasets_library_it_has_the_same_items():
    order = TrainingOrder(rows(10), global_batch_size=4)
    dataset = order.as_dataset()
    assert len(dataset) == len(order)
    for mine, theirs in zip(order, dataset, strict=True):
        assert mine["input_ids"].tolist() == theirs["input_ids"].tolist()
        assert (mine["epoch"], mine["progress"]) == (theirs["epoch"], theirs["progress"])
        assert mine["example"].ids.tolist() == theirs["example"].ids.tolist()
