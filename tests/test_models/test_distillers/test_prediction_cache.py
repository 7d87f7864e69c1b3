"""`cache_mb`: a frozen member does not run again on images that it has seen."""

from typing import NamedTuple

import pytest
import torch
from torch import nn

from mmkd.models.distillers.prediction_cache import PredictionCache
from mmkd.models.distillers.tap import Tap
from mmkd.utils.errors import ConfigError


class Features(NamedTuple):
    fine: torch.Tensor
    coarse: tuple


class Levels(nn.Module):
    """Two levels of a feature, and logits."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)
        self.runs = []

    def forward(self, images):
        self.runs.append(len(images))
        levels = Features(images[:, :, ::2, ::2], (images * 2,))
        return [levels], dict(logits=self.head(images.mean((2, 3))))


class Task:
    standard_taps = ()

    def check_tap(self, *args):
        pass

    def calls_forward(self, module):
        return False


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = nn.Sequential(Levels()).eval()
    network.tap = Tap('teacher', '0', network, Task(), 'links[0]')
    return network


@pytest.fixture
def images():
    return torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def read(cache, network, images, samples=None):
    tap = network.tap
    tap.recorder.enabled = True
    with torch.no_grad():
        cache.read([tap], images, samples, lambda some, their: network(some))
    tap.recorder.enabled = False
    return flat(*tap.read().value)


def flat(levels, named):
    return [levels[0].fine, levels[0].coarse[0], named['logits']]


def expected(network, images):
    with torch.no_grad():
        return flat(*network(images))


def test_values_are_those_of_the_network_in_whatever_order_images_come(network, images):
    cache = PredictionCache(10, 'cache_mb')
    runs = network[0].runs
    for index in ([0, 1, 2], [3, 2, 1, 4], [4, 0, 3], [5, 5, 0]):
        chosen = images[index]
        found = read(cache, network, chosen)
        ran = runs[:]
        torch.testing.assert_close(found, expected(network, chosen))
        network[0].runs = runs = ran
    # The first batch once more, with an image twice: what is one per image follows.
    assert runs == [3, 4, 2, 2]
    assert cache.summary().startswith('6 of 13 images were in the cache')
    assert cache.summary().startswith('0 of 0')


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_last_bit_makes_another_image(dtype):
    cache = PredictionCache(1, 'cache_mb')
    image = torch.randn(1, 3, 8, 8).to(dtype)
    others = image.repeat(192, 1, 1, 1)
    bits = others.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize])
    bits.flatten(1).diagonal().bitwise_xor_(1)
    hashes = cache._hashes(torch.cat([image, others]))
    assert len(set(hashes)) == 193
    assert cache._hashes(image) == hashes[:1]
    assert cache._hashes(image.contiguous(memory_format=torch.channels_last)) == hashes[:1]


def test_no_more_than_it_may_is_kept(network, images):
    large = images.repeat(1, 1, 100, 100)  # 2.4 MB of values an image
    cache = PredictionCache(6, 'cache_mb')
    for _ in range(3):
        read(cache, network, large)
    assert len(cache.kept) == 2 and cache.bytes <= 6 * 2**20
    assert network[0].runs == [6, 7, 4, 4]
    torch.testing.assert_close(read(cache, network, large), expected(network, large))


def test_an_image_that_is_twice_in_a_batch_counts_once(network, images):
    once, twice = (PredictionCache(10, 'cache_mb') for _ in range(2))
    read(once, network, images[:1])
    found = read(twice, network, images[[0, 0]])
    torch.testing.assert_close(found, expected(network, images[[0, 0]]))
    assert twice.bytes == once.bytes > 0 and len(twice.kept) == 1


def test_values_are_copies_without_a_graph(network, images):
    cache = PredictionCache(10, 'cache_mb')
    levels = read(cache, network, images[:2])
    levels[0].zero_()
    again = read(cache, network, images[:2])
    torch.testing.assert_close(again, expected(network, images[:2]))
    assert not any(value.requires_grad for value in again)


@pytest.mark.parametrize('layers', [2, 3])
def test_an_output_that_is_not_one_per_image_is_refused(images, layers):
    """Even where a decoder has as many layers as the batch images."""

    class Decoder(nn.Module):
        def forward(self, images):
            return torch.stack([images.mean((2, 3))] * layers)

    network = nn.Sequential(Decoder())
    with pytest.raises(ConfigError, match="cache_mb: what '0' returns is not one per image"):
        tap = Tap('teacher', '0', network, Task(), 'links[0]')
        tap.recorder.enabled = True
        cache = PredictionCache(10, 'model.members.teacher.cache_mb')
        cache.read([tap], images[:3], None, lambda some, their: network(some))
