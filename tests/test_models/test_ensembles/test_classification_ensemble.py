"""Fusion of a whole batch of classifiers' predictions."""

import pytest
import torch

pytest.importorskip('mmpretrain')
from mmpretrain.structures import DataSample  # noqa: E402

from mmkd.models.ensembles import ClassificationEnsemble  # noqa: E402


def predictions(members=3, images=4, classes=5):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(members, images, classes, generator=generator).softmax(-1)
    return [
        [DataSample(metainfo=dict(img_path=f'{i}')).set_pred_score(s) for i, s in enumerate(own)]
        for own in scores
    ], scores


@pytest.mark.parametrize('fusion', ['probability', 'logits'])
@pytest.mark.parametrize('options', [{}, dict(thr=0.2), dict(topk=2)])
def test_a_batch_is_fused_as_each_image(fusion, options):
    samples, scores = predictions()
    ensemble = ClassificationEnsemble(multi_label=bool(options), fusion=fusion, **options)
    fused = ensemble.fuse_batch(samples)
    assert [sample.img_path for sample in fused] == ['0', '1', '2', '3']
    for i, sample in enumerate(fused):
        alone = ensemble.fuse_samples([own[i] for own in samples])
        torch.testing.assert_close(sample.pred_score, alone.pred_score)
        assert sample.pred_label.tolist() == alone.pred_label.tolist()
        if fusion == 'probability':
            expected = scores[:, i].mean(0)
            torch.testing.assert_close(sample.pred_score, expected)
            if not options:
                assert sample.pred_label.item() == expected.argmax()
        assert torch.equal(samples[0][i].pred_score, scores[0, i])
        assert 'pred_label' not in samples[0][i]


def test_probabilities_of_one_image_make_one():
    samples, _ = predictions()
    fused = ClassificationEnsemble(fusion='logits').fuse_batch(samples)
    torch.testing.assert_close(torch.stack([s.pred_score for s in fused]).sum(-1), torch.ones(4))
