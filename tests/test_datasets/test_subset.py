import pytest
from mmengine.dataset import BaseDataset

from mmkd.datasets import LabeledSubset
from mmkd.utils.errors import ConfigError

DRAWN_BY_SEED_3 = [2, 28, 34, 60, 67, 68, 74, 77, 85]


class Numbers(BaseDataset):
    METAINFO = dict(classes=('one',))

    def load_data_list(self):
        return [dict(number=i) for i in range(90)]


def numbers_of(subset):
    numbers = [subset[i]['number'] for i in range(len(subset))]
    assert numbers == [subset.get_data_info(i)['number'] for i in range(len(subset))]
    return numbers


def test_a_part_and_its_rest():
    labeled = numbers_of(LabeledSubset(Numbers(), share=0.1, seed=3))
    rest = numbers_of(LabeledSubset(Numbers(), share=0.1, seed=3, complement=True))
    assert len(labeled) == 9 and sorted(labeled + rest) == list(range(90))
    assert labeled != list(range(9)) and labeled == sorted(labeled)
    # The draw is fixed: a later version must not change published subsets.
    assert labeled == DRAWN_BY_SEED_3


def test_seed_and_size():
    nine, again, ten = (numbers_of(LabeledSubset(Numbers(), count=n, seed=1)) for n in (9, 9, 10))
    assert nine == again and set(nine) < set(ten)
    assert nine != numbers_of(LabeledSubset(Numbers(), count=9, seed=2))
    assert LabeledSubset(Numbers(), share=1.0).metainfo['classes'] == ('one',)


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(), 'either'),
        (dict(share=0.1, count=9), 'either'),
        (dict(share=1.5), r'share.*\[0, 1\]'),
        (dict(count=91), r'an integer in \[1, 90\]'),
        (dict(count=0), r'an integer in \[1, 90\]'),
        (dict(share=0.1, seed=-1), 'seed'),
        (dict(share=0.001), 'no image is left'),
        (dict(share=1.0, complement=True), 'no image is left'),
    ],
)
def test_wrong_values(wrong, message):
    with pytest.raises(ConfigError, match=message):
        LabeledSubset(Numbers(), **wrong)
