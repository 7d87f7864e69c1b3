"""Temperatures in the weights of plain networks; tests/test_apis/test_calibrating.py has more."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

from mmkd.export.tempered import tempered_state
from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.utils.errors import ConfigError


def built(cfg, state=None):
    network = MODELS.build(copy.deepcopy(cfg.model))  # thresholds of `cfg` are moved in place
    if state is None:
        network.init_weights()
    else:
        network.load_state_dict(state)
    return network.eval()


def expected_of(scores, temperature):
    return (scores.logit(eps=1e-9) / temperature).sigmoid()


def test_boxes_stay_and_their_scores_are_calibrated(toolkit):
    options = {**toolkit.NARROW, 'backbone.init_cfg': None, 'test_cfg.score_thr': 0.2}
    spec = MemberSpec.from_config('a', dict(config=toolkit.RTMDET, options=options))
    cfg = Config(dict(model=spec.config, default_scope='mmdet'))
    network = built(cfg)
    with torch.no_grad():  # scores around the threshold
        for layer in network.bbox_head.rtm_cls:
            layer.weight.normal_(std=50.0)
            layer.bias.fill_(-1.3)
        for layer in network.bbox_head.rtm_reg:
            layer.bias.fill_(1.0)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    calibrated = built(cfg, tempered_state(cfg, state, 'a', 2.0))
    assert calibrated.test_cfg.score_thr == pytest.approx(1 / 3)
    batch = toolkit.make_batch(n=1)
    with torch.no_grad():
        (one,), (other,) = (
            model.test_step(dict(batch, data_samples=[batch['data_samples'][0].clone()]))
            for model in (network, calibrated)
        )
    one, other = one.pred_instances, other.pred_instances
    assert len(one) == len(other) > 0
    one.scores = expected_of(one.scores, 2.0)
    rows, others = (torch.cat([x.bboxes, x.scores[:, None]], 1) for x in (one, other))
    apart = torch.cdist(rows, others, p=float('inf'))  # equal scores may change places
    assert max(apart.amin(0).max(), apart.amin(1).max()) < 1e-3


def test_masks_stay_where_the_foregrounds_threshold_is_not_a_half():
    pytest.importorskip('mmseg')
    sides = dict(num_stages=2, strides=(1, 1), enc_num_convs=(1, 1), dec_num_convs=(1,))
    more = dict(downsamples=(True,), enc_dilations=(1, 1), dec_dilations=(1,))
    head = dict(type='FCNHead', in_channels=8, channels=4, num_convs=1, in_index=0)
    model = dict(
        type='EncoderDecoder',
        backbone=dict(type='UNet', base_channels=4, **sides, **more),
        decode_head=dict(head, num_classes=2, out_channels=1, threshold=0.3),
        data_preprocessor=dict(type='SegDataPreProcessor', mean=[0.0] * 3, std=[1.0] * 3),
        test_cfg=dict(mode='whole'),
        _scope_='mmseg',
    )
    cfg = Config(dict(model=model, default_scope='mmseg'))
    network = built(cfg)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    calibrated = built(cfg, tempered_state(cfg, state, 'a', 0.5))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        one, other = (
            model.encode_decode(images, [dict(img_shape=(32, 32))]).sigmoid()
            for model in (network, calibrated)
        )
    torch.testing.assert_close(other, expected_of(one, 0.5), rtol=1e-4, atol=1e-5)
    masks = [p > m.decode_head.threshold for p, m in ((one, network), (other, calibrated))]
    assert masks[0].equal(masks[1]) and calibrated.decode_head.threshold < 0.2


def test_logits_that_are_no_layers_output_are_refused():
    pytest.importorskip('mmpretrain')
    model = dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, stem_channels=4, base_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='ArcFaceClsHead', num_classes=3, in_channels=32),
        data_preprocessor=dict(mean=[0.0] * 3, std=[1.0] * 3),
        _scope_='mmpretrain',
    )
    cfg = Config(dict(model=model, default_scope='mmpretrain'))
    with pytest.raises(ConfigError, match='ArcFaceClsHead cannot take one into its weights'):
        tempered_state(cfg, built(cfg).state_dict(), 'a', 2.0)
