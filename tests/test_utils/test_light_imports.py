"""Imports without packages that are not needed, and with them where they are."""

import sys
from importlib import import_module

import pytest

from mmkd.utils.light_imports import CALLED_ONLY, Later, light_imports, toolboxes_without_need


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package `heavy`, and `user`, which imports it in three ways and calls it in functions."""
    (tmp_path / 'heavy/inner').mkdir(parents=True)
    (tmp_path / 'heavy/__init__.py').write_text('def double(x):\n    return 2 * x\n')
    (tmp_path / 'heavy/inner/__init__.py').write_text(
        'class Sum:\n    def __init__(self, *x):\n        self.value = sum(x)\n'
    )
    (tmp_path / 'user.py').write_text(
        'import heavy\nimport heavy.inner as inner\nfrom heavy.inner import Sum as Total\n'
        'try:\n    import other\nexcept ImportError:\n    other = None\n'
        'def use():\n    return heavy.double(3), inner.Sum(1, 2).value, Total(2, 3).value\n'
    )
    (tmp_path / 'other.py').write_text('')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr('mmkd.utils.light_imports.CALLED_ONLY', ('heavy', 'not_installed'))
    yield
    for name in ('heavy', 'heavy.inner', 'user', 'other'):
        sys.modules.pop(name, None)


def test_a_package_is_imported_when_it_is_called(package):
    with light_imports():
        user = import_module('user')
        with pytest.raises(ModuleNotFoundError):
            import_module('not_installed')
    assert isinstance(user.heavy, Later) and 'heavy' not in sys.modules
    assert user.use() == (6, 3, 5) and user.other is sys.modules['other']
    assert not isinstance(sys.modules['heavy'], Later) and import_module('heavy').double(1) == 2


def test_what_is_imported_already_stays(package):
    heavy = import_module('heavy')
    with light_imports(hidden=['heavy']):
        user = import_module('user')
    assert user.heavy is heavy is sys.modules['heavy'] and user.use() == (6, 3, 5)


def test_a_hidden_package_is_not_installed_within_the_block(package):
    finders = list(sys.meta_path)
    with light_imports(hidden=['other']):
        assert import_module('user').other is None
    assert import_module('other') and sys.meta_path == finders


def test_stand_ins_have_no_attributes_that_python_asks_for():
    with pytest.raises(AttributeError, match='heavy.__version__'):
        Later('heavy').__version__  # noqa: B018


@pytest.mark.parametrize(
    'model, needed',
    [
        (dict(type='ImageClassifier'), {'mmpretrain'}),
        (dict(type='EncoderDecoder', decode_head=dict(type='Mask2FormerHead')), {'mmdet'}),
        (dict(type='OneDLDataset', backbone=dict(type='mmseg.UNet')), {'mmseg', 'mmpretrain'}),
        (dict(members=dict(a=dict(config='mmdet::yolox.py'), b=None)), {'mmdet'}),
        (dict(members=dict(a=dict(config='mine.py'))), {'mmdet', 'mmseg', 'mmpretrain'}),
    ],
)
def test_which_toolboxes_a_config_needs(model, needed):
    scope = 'mmpretrain' if model.get('type') == 'ImageClassifier' else 'mmengine'
    unneeded = toolboxes_without_need(dict(default_scope=scope, model=model))
    assert set(unneeded) == {'mmdet', 'mmseg', 'mmpretrain'} - needed


def test_the_toolboxes_only_call_what_is_imported_late():
    """A new version of a toolbox may use such a package in another way."""
    import ast
    from pathlib import Path

    found = []
    for toolbox in ('mmdet', 'mmseg', 'mmpretrain'):
        folder = Path(pytest.importorskip(toolbox).__file__).parent
        for path in folder.rglob('*.py'):
            text = '' if '.mim' in path.parts else path.read_text()
            if not any(name in text for name in CALLED_ONLY):
                continue
            tree = ast.parse(text)
            names = {
                alias.asname or alias.name.partition('.')[0]
                for node in ast.walk(tree)
                if isinstance(node, ast.Import | ast.ImportFrom)
                for alias in node.names
                if (getattr(node, 'module', None) or alias.name).partition('.')[0] in CALLED_ONLY
                and not getattr(node, 'level', 0)
            }
            found += [
                f'{path}:{node.lineno}'
                for node in ast.walk(tree)
                if isinstance(node, ast.ClassDef)
                for base in node.bases
                if ast.unparse(base).partition('.')[0] in names
            ]
            found += [
                f'{path}:{node.lineno}'
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
                and ast.unparse(node.func) in ('isinstance', 'issubclass')
                and ast.unparse(node.args[1]).partition('.')[0] in names
            ]
    assert not found
