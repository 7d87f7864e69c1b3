"""Configs inside installed packages as the base of others."""

import pytest

from mmkd.apis.command_line import read_config
from mmkd.utils.errors import ConfigError


def config(tmp_path, text):
    path = tmp_path / 'config.py'
    path.write_text(text)
    return read_config(path)


def test_mmkds_configs_can_be_inherited_from_anywhere(tmp_path):
    text = (
        "_base_ = 'mmkd::mmkd/polyp_yolox_kdml_cpu.py'\nmodel = dict(sharing=dict(type='kd_p'))\n"
    )
    cfg = config(tmp_path, text)
    assert cfg.model.sharing.type == 'kd_p' and cfg.model.sharing.tau == 2.0
    # mmkd's files name what is mmkd's; all else belongs to the toolbox of `default_scope`.
    assert cfg.val_evaluator.type == 'CocoMetric' and '_scope_' not in cfg.val_evaluator


@pytest.mark.parametrize(
    'package, path',
    [
        ('mmdet', 'yolox/yolox_tiny_8xb8-300e_coco.py'),
        ('mmseg', 'unet/unet-s5-d16_fcn_4xb4-160k_cityscapes-512x1024.py'),
    ],
)
def test_a_toolboxs_configs_are_found_whatever_its_distribution_is_called(package, path, tmp_path):
    pytest.importorskip(package)
    assert config(tmp_path, f"_base_ = ['{package}::{path}']").model._scope_ == package


def test_a_base_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"_base_ of .*'mmkd/polyp_yolox_kd.py'"):
        config(tmp_path, "_base_ = 'mmkd::mmkd/polyp_yolo_kd.py'")
    with pytest.raises(ConfigError, match='mmkdd'):
        config(tmp_path, "_base_ = 'mmkdd::mmkd/polyp_yolox_kd.py'")


def test_a_command_takes_mmkds_own_configs_by_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    cfg = read_config('mmkd::mmkd/polyp_unet_mixed_demo.py')
    assert cfg.model.type == 'mmkd.OnlineDistiller' and cfg.default_scope == 'mmseg'
    with pytest.raises(ConfigError, match="did you mean 'mmkd/polyp_unet_mixed_demo.py'"):
        read_config('mmkd::mmkd/polyp_unet_mixed_dem.py')
    with pytest.raises(ConfigError, match="own is 'mmkd::mmkd/polyp_unet_mixed_demo.py'$"):
        read_config('polyp_unet_mixed_demo.py')
    with pytest.raises(ConfigError, match=r"no config file 'nothing.py' \(from .*\)$"):
        read_config('nothing.py')
    with pytest.raises(ConfigError, match="config: 'nopackage::a.py': .* cannot be imported"):
        read_config('nopackage::a.py')
