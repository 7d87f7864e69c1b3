"""The examples in the docstrings of losses, connectors and combiners run as written."""

import doctest
import importlib
import pkgutil

import pytest

from mmkd.models import combiners, connectors, losses
from mmkd.registry import MODELS

MODULES = [
    f'{package.__name__}.{module.name}'
    for package in (combiners, connectors, losses)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
    before = dict(MODELS._module_dict)
    try:
        result = doctest.testmod(importlib.import_module(name))
    finally:
        MODELS._module_dict.clear()
        MODELS._module_dict.update(before)
    assert result.failed == 0
    assert result.attempted or not name.endswith('.base')
