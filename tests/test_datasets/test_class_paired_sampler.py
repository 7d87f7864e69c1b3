import pytest

pytest.importorskip('mmpretrain')

import mmkd.datasets.class_paired_sampler as module  # noqa: E402
from mmkd.datasets import ClassPairedSampler  # noqa: E402
from mmkd.registry import DATA_SAMPLERS  # noqa: E402


class Labels(list):
    """What the sampler needs of a data set."""

    def get_data_info(self, index):
        return dict(gt_label=self[index])


DATA = Labels(
    [0, 1, 0, 2, 1, 0, 1, 1, 3, 2, 0, 0]
)  # five of class 0, four of 1, two of 2, one of 3


def pairs_of(sampler):
    order = list(sampler)
    return list(zip(order[::2], order[1::2]))


def test_every_image_comes_with_one_of_its_class():
    sampler = ClassPairedSampler(DATA, seed=1)
    for epoch in range(10):
        sampler.set_epoch(epoch)
        pairs = pairs_of(sampler)
        assert len(sampler) == 2 * len(pairs) == 14
        assert all(DATA[a] == DATA[b] and (a != b or DATA[a] == 3) for a, b in pairs)
        assert {index for pair in pairs for index in pair} == set(range(12))


def test_the_order_depends_on_seed_and_epoch_alone():
    one, two = ClassPairedSampler(DATA, seed=1), ClassPairedSampler(DATA, seed=1)
    orders = []
    for epoch in range(4):
        one.set_epoch(epoch)
        orders.append(list(one))
    two.set_epoch(2)  # as a resumed run does
    assert list(two) == orders[2] and len({tuple(order) for order in orders}) == 4
    assert list(ClassPairedSampler(DATA, seed=9)) != orders[0]


@pytest.mark.parametrize('world', [2, 3, 16])
def test_ranks_share_out_whole_pairs(monkeypatch, world):
    shares = []
    for rank in range(world):
        monkeypatch.setattr(module, 'get_dist_info', lambda rank=rank: (rank, world))
        sampler = ClassPairedSampler(DATA, seed=3)
        shares.append(pairs_of(sampler))
        assert len(sampler) == 2 * len(shares[-1])
    assert len({len(share) for share in shares}) == 1
    assert all(DATA[a] == DATA[b] for share in shares for a, b in share)
    assert {index for share in shares for pair in share for index in pair} == set(range(12))
    monkeypatch.setattr(module, 'get_dist_info', lambda: (0, 1))
    assert sorted(set(pair for share in shares for pair in share)) == sorted(
        set(pairs_of(ClassPairedSampler(DATA, seed=3)))
    )


def test_images_of_several_labels_are_paired_by_their_set():
    several = Labels([[0, 1], [1], [1, 0], [1], [2]])
    assert {frozenset(pair) for pair in pairs_of(ClassPairedSampler(several, seed=0))} == {
        frozenset([0, 2]),
        frozenset([1, 3]),
        frozenset([4]),
    }


def test_it_is_built_by_name_and_reads_repeated_data_sets():
    from mmengine.dataset import BaseDataset, RepeatDataset

    class Data(BaseDataset):
        def load_data_list(self):
            return [dict(gt_label=label) for label in DATA]

    sampler = DATA_SAMPLERS.build(
        dict(type='mmkd.ClassPairedSampler', dataset=RepeatDataset(Data(), 2), seed=0)
    )
    assert len(sampler) == 24 and all(DATA[a % 12] == DATA[b % 12] for a, b in pairs_of(sampler))


def test_data_without_labels_are_refused():
    class Boxes(list):
        def get_data_info(self, index):
            return dict(instances=[])

    with pytest.raises(
        ValueError, match="ClassPairedSampler pairs images by 'gt_label', which Boxes lacks"
    ):
        ClassPairedSampler(Boxes([1]), seed=0)
