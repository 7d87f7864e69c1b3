"""Which levels of feature pyramids belong together."""

import pytest
import torch

from mmkd.models.distillers.levels import paired_levels
from mmkd.utils.errors import ConfigError


def pyramid(*strides, size=128):
    """Maps of an image of `size` pixels."""
    return [torch.zeros(1, 4, size // s, size // s) for s in strides]


def pairs(target, *sources, in_order=False):
    return paired_levels(target, sources, 'links[0]', 'a <- b', in_order)


@pytest.mark.parametrize(
    'target, sources, expected',
    [
        ([8, 16, 32], [[8, 16, 32]], [(0, 0), (1, 1), (2, 2)]),
        ([8, 16, 32], [[4, 8, 16, 32, 64]], [(0, 1), (1, 2), (2, 3)]),
        ([8, 16, 32, 64, 128], [[4, 8, 16, 32, 64]], [(0, 1), (1, 2), (2, 3), (3, 4)]),
        ([32, 16, 8], [[8, 16]], [(1, 1), (2, 0)]),
        ([8, 16], [[4, 8, 16], [16, 8, 32]], [(0, 1, 1), (1, 2, 0)]),
        ([16, 16], [[8, 16]], [(0, 1)]),
    ],
)
def test_levels_of_one_stride_are_paired(target, sources, expected):
    assert pairs(pyramid(*target), *(pyramid(*strides) for strides in sources)) == expected


def test_sizes_that_convolutions_without_padding_leave_are_of_one_stride():
    odd = [torch.zeros(1, 4, n, n) for n in (15, 7, 3)]
    assert pairs(pyramid(8, 16), odd) == [(0, 0), (1, 1)]


def test_a_connector_that_was_written_for_the_levels_gets_them_in_order():
    assert pairs(pyramid(8, 16), pyramid(4, 8), in_order=True) == [(0, 0), (1, 1)]
    assert pairs(pyramid(8, 16), pyramid(4, 8, 16), in_order=True) == [(0, 1), (1, 2)]


def test_single_values_are_paired_as_they_are():
    assert pairs(torch.zeros(1, 4, 8, 8), torch.zeros(1, 4, 32, 32)) == [(0, 0)]
    assert pairs([torch.zeros(2, 3)] * 2, [torch.zeros(2, 3)] * 2) == [(0, 0), (1, 1)]


@pytest.mark.parametrize(
    'target, source, message',
    [
        (pyramid(8, 16), pyramid(8)[0], 'links.0.: the two sides have different numbers of levels'),
        ([torch.zeros(2, 3)] * 2, [torch.zeros(2, 3)], 'different numbers of levels: a <- b'),
        (pyramid(8, 16), pyramid(32, 64, 128), 'no level has the stride of one of the other side'),
        ([pyramid(8, 16)] * 2, [pyramid(8, 16)] * 2, "lists of lists; .* as in 'bbox_head.0.'"),
    ],
)
def test_what_cannot_be_paired(target, source, message):
    with pytest.raises(ConfigError, match=message):
        pairs(target, source)
