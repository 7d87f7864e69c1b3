"""Configs that train in stages: whom the first stage trains, and who learns from whom then."""

import itertools
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmkd.apis.pretraining import Pretraining

FOLDER = Path(__file__).resolve().parents[1] / 'configs/mmkd/recipes'
COUNTER = itertools.count()


@pytest.mark.parametrize('name', sorted(path.stem for path in FOLDER.glob('*.py')))
def test_the_first_stage_trains_who_teaches_in_the_second(name, tmp_path):
    cfg = Config.fromfile(FOLDER / f'{name}.py')
    pytest.importorskip(cfg.default_scope)
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    stage = Pretraining.of(cfg)
    first = stage.cfg.model
    assert list(first.members) == stage.members and 'unlabeled_dataloader' not in stage.cfg
    assert not first.get('sharing') and not first.get('links')
    assert stage.cfg.default_hooks.checkpoint.save_best.startswith('ensemble/')
    if name.endswith('_cpu'):
        return  # its demo has the same networks
    DefaultScope.get_instance(f'recipe-{next(COUNTER)}', scope_name=cfg.default_scope)
    networks = MODELS.build(first).members
    for member in stage.members:
        torch.save(networks[member].state_dict(), tmp_path / f'{member}.pth')
    stage.freeze(cfg, {member: str(tmp_path / f'{member}.pth') for member in stage.members})
    model = MODELS.build(cfg.model)
    assert set(model.members.frozen) == set(stage.members)
    links = {(tuple(link.source), link.target, link.spec.on) for link in model.links}
    if 'one_' in name:
        assert links == {(('student1', 'student2'), 'student', 'both')}
        assert model.evaluated == ['student', 'student1', 'student2', 'ensemble']
        labeled, others = cfg.train_dataloader.dataset, cfg.unlabeled_dataloader.dataset
        assert others.complement and not labeled.get('complement')
        assert all(labeled[key] == others[key] for key in ('share', 'seed'))
        assert not any('Annotations' in step.type for step in others.dataset.pipeline)
    elif 'second_' in name:
        assert links == {(('first1', 'first2'), f'student{i}', 'both') for i in (1, 2)}
        assert model.evaluated == ['first1', 'first2', 'student1', 'student2', 'ensemble']
        assert cfg.model.ensemble.members == ['student1', 'student2']
        members = model.members.networks().values()  # each starts from other weights
        sums = {sum(float(p.sum()) for p in member.parameters()) for member in members}
        assert len(sums) == 4
    else:
        assert links == {(('teacher',), f'student{i}', 'labeled') for i in (1, 2)}
