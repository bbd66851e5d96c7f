from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpt_common.shuffle import shuffled


@given(size=st.integers(1, 300), epoch=st.integers(0, 2**70), seed=st.integers(0, 2**70))
def test_an_epoch_has_every_element_once(size, epoch, seed):
    indices = range(epoch * size, (epoch + 1) * size)
    assert sorted(shuffled(indices, size, seed)) == list(range(size))


@given(size=st.integers(1, 2**62), index=st.integers(0, 2**80))
def test_an_element_depends_on_its_index_alone(size, index):
    indices = [index, index + 1, index + size, 7]
    assert shuffled(indices, size, 3) == [shuffled([i], size, 3)[0] for i in indices]
    assert all(0 <= element < size for element in shuffled(indices, size, 3))


def test_it_never_changes():
    """A resumed run depends on it."""
    first, second = [7, 2, 5, 6, 1, 4, 9, 3, 0, 8], [9, 0, 7, 4, 1, 6, 2, 5, 3, 8]
    assert shuffled(range(20), 10, 1337) == first + second
    ends = [0, 1, 9_999_999, 10**7]
    assert shuffled(ends, 10**7, 42) == [6863728, 9019332, 9212491, 5834791]


def test_epochs_and_seeds_differ():
    first = shuffled(range(100), 100, 1)
    assert first != list(range(100))
    assert len({tuple(shuffled(range(e * 100, e * 100 + 100), 100, 1)) for e in range(50)}) == 50
    assert len({tuple(shuffled(range(100), 100, seed)) for seed in range(50)}) == 50
    assert shuffled(range(100, 200), 100, 1) != shuffled(range(100), 100, 2)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_order_of_a_few_is_as_frequent(size):
    """Each within five standard errors of its probability."""
    epochs, orders = 6000, {2: 2, 3: 6, 4: 24}[size]
    elements = np.array(shuffled(range(epochs * size), size, 0)).reshape(epochs, size)
    counts = Counter(map(tuple, elements.tolist()))
    assert len(counts) == orders
    expected = epochs / orders
    assert max(abs(count - expected) for count in counts.values()) < 5 * expected**0.5


def test_neighbours_are_not_neighbours_afterwards():
    elements = np.array(shuffled(range(10_000), 10_000, 5))
    assert abs(np.corrcoef(elements[:-1], elements[1:])[0, 1]) < 0.05
    assert abs(np.corrcoef(np.arange(10_000), elements)[0, 1]) < 0.05
    assert (np.abs(np.diff(elements)) == 1).sum() < 10
