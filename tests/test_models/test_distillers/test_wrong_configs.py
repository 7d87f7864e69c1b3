import pytest
import torch

YOLOX = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(members={}), 'model.members: expected a dict'),
        (
            dict(members=dict(a=dict(conf='x'))),
            r"model.members.a.conf: unknown name 'conf'; did you mean 'config'",
        ),
        (
            dict(members=dict(a=dict(config='mmdet::yolox/yolox_tny_8xb8-300e_coco.py'))),
            "did you mean 'yolox/yolox_tiny_8xb8",
        ),
        (
            dict(members=dict(a=dict(config='nopackage::x.py'))),
            "the package 'nopackage' cannot be imported",
        ),
        (
            dict(members=dict(a=dict(config='no/such/file.py'))),
            "model.members.a.config: no file 'no/such/file.py'",
        ),
        (
            dict(members=dict(a=dict(config=dict(type='mmkd.OnlineDistiller', members={})))),
            'model.members.a.config: expected a network, got an OnlineDistiller',
        ),
        (
            dict(members=dict(taps=dict(config=YOLOX))),
            "'taps' is no valid member name: it is reserved",
        ),
        (
            dict(data_preprocessor=dict(type='DetDataPreprocessor', mean=[0] * 3, std=[0] * 3)),
            r'model.data_preprocessor.std: expected a number .* got 0',
        ),
        (
            dict(data_preprocessor=dict(type='DetDataPreprocessor', mean=[0, 0], std=[1, 1])),
            'model.data_preprocessor: `mean` should have 1 or 3 values',
        ),
        (dict(members={'class': dict(config=YOLOX)}), "'class' is no valid member name"),
        (dict(members=dict(ensemble=dict(config='x'))), "'ensemble' is no valid member name"),
        (
            dict(members=dict(a=dict(training='ema', of='a'))),
            r"model.members.a.of .*unknown name 'a'",
        ),
        (dict(members=dict(a=dict(training='ema'))), "'of' names the averaged member"),
        (dict(members=dict(a=dict(training='frzen', config='x'))), "did you mean 'frozen'"),
        (
            dict(members=dict(a=dict(config='x', cache_mb=5))),
            "model.members.a.cache_mb: is for training='frozen', .* got training='online'",
        ),
        (
            dict(members=dict(a=dict(training='frozen', config='x'))),
            'model.members.a.checkpoint: a frozen member needs',
        ),
        (dict(sharing='kdml_q'), "model.sharing.type: unknown name 'kdml_q'; did you mean 'kdml_"),
        (
            dict(sharing=dict(type='kdml_p', tua=1)),
            "model.sharing.tua: unknown name 'tua'; did you mean 'tau'",
        ),
        (dict(sharing=dict(type='kdml_p', tau=0)), 'tau'),
        (dict(sharing=dict(weight=1)), "a dict with 'type'"),
        (
            dict(links=[dict(source='teacher', target='studnt1')]),
            "links.0..target: unknown name 'studnt1'; did you mean 'student",
        ),
        (
            dict(
                links=[
                    dict(
                        source='teacher',
                        target='student1',
                        tap='feature',
                        loss=dict(type='PearsonFeature', foo=1),
                    )
                ]
            ),
            r"model.links\[0\].loss.foo: unknown name 'foo'; valid: none",
        ),
        (
            dict(
                links=[
                    dict(
                        source='teacher',
                        target='student1',
                        tap='feature',
                        loss=dict(type='DetectionLoss'),
                    )
                ]
            ),
            r'DetectionLoss cannot take tensors, PearsonFeature \(the default\) can: ',
        ),
        (dict(links=[dict(source='teacher', target='teacher')]), 'source and target are both'),
        (dict(links=[dict(source='teacher', targte='student1')]), "did you mean 'target'"),
        (
            dict(links=[dict(source='teacher', target='student1', tap='predictions')]),
            "did you mean 'prediction'",
        ),
        (
            dict(links=[dict(source='teacher', target='student1', tap='backbone.stag4')]),
            "did you mean 'backbone.stage4'",
        ),
        (
            dict(links=[dict(source='teacher', target='student1', tap='neck[7]')]),
            r'level \[7\] of .neck., which has 3',
        ),
        (
            dict(links=[dict(source='teacher', target='student1', tap='feature', connector=None)]),
            'teacher.feature .*48',
        ),
        (
            dict(
                links=[
                    dict(
                        source='teacher',
                        target='student1',
                        source_tap='neck',
                        target_tap='neck[0]',
                        loss=dict(type='FeatureMSE'),
                    )
                ]
            ),
            'different numbers of levels',
        ),
        (
            dict(links=[dict(source='teacher', target='student1', tap='backbone')]),
            'loss: must be given for the tap',
        ),
        (
            dict(
                links=[
                    dict(
                        source='teacher',
                        target='student1',
                        tap='feature',
                        loss=dict(type='FeatureMS'),
                    )
                ]
            ),
            "did you mean 'FeatureMSE'",
        ),
        (
            dict(
                links=[
                    dict(
                        source='teacher',
                        target='student1',
                        tap='feature',
                        loss=dict(type='FeatureMSE', tau=1),
                    )
                ]
            ),
            'links.0..loss.tau: unknown name',
        ),
        (
            dict(
                links=[dict(source='teacher', target='student1', schedule=dict(type='SigmoidRmp'))]
            ),
            "did you mean 'SigmoidRamp'",
        ),
        (
            dict(links=[dict(source='teacher', target='student1', weight=-1)]),
            'weight: expected a number >= 0',
        ),
        (
            dict(
                links=[
                    dict(source='teacher', target='student1'),
                    dict(
                        source='teacher',
                        target='student1',
                        target_tap='neck',
                        loss=dict(type='FeatureMSE'),
                    ),
                ]
            ),
            'neck|links',
        ),
        (
            dict(ensemble=dict(members=['student9'])),
            "model.ensemble.members: unknown name 'student9'",
        ),
        (dict(ensemble=dict(fusion='wfb')), "did you mean 'wbf'"),
        (dict(ensemble=dict(iou_thr=1.5)), 'iou_thr: expected a number'),
        (dict(task='detction'), 'model.task'),
    ],
)
def test_wrong_config_fails_at_build_with_one_clear_message(toolkit, change, message):
    with pytest.raises(ValueError, match=message):
        toolkit.make_distiller(init=False, **change)


def test_unknown_option_names_the_nearest(toolkit):
    with pytest.raises(ValueError, match="did you mean 'bbox_head'"):
        toolkit.make_distiller(members=dict(a=toolkit.yolox(options={'bbox_hed.num_classes': 1})))


def test_link_into_a_frozen_member(toolkit, tmp_path):
    torch.save(toolkit.make_distiller().network('teacher').state_dict(), tmp_path / 't.pth')
    frozen = toolkit.yolox(
        options=toolkit.WIDER, training='frozen', checkpoint=str(tmp_path / 't.pth')
    )
    with pytest.raises(ValueError, match="target: 'teacher' is frozen and learns nothing"):
        toolkit.make_distiller(
            members=toolkit.members(teacher=frozen),
            links=[dict(source='student1', target='teacher')],
        )


def test_class_counts_that_differ_are_named_on_both_sides(toolkit):
    options = dict(toolkit.NARROW, **{'bbox_head.num_classes': 3})
    with pytest.raises(ValueError, match='student1.prediction .* <- teacher.prediction'):
        toolkit.make_distiller(
            members=toolkit.members(student1=toolkit.yolox(options=options)), sharing='kd_p'
        )


class Malicious:
    def __reduce__(self):
        return print, ('code ran',)


def test_a_checkpoint_that_would_run_code_is_refused(toolkit, tmp_path, capsys):
    torch.save(dict(state_dict={}, evil=Malicious()), tmp_path / 'evil.pth')
    with pytest.raises(ValueError, match='is no plain checkpoint'):
        toolkit.make_distiller(
            members=toolkit.members(student1=toolkit.yolox(checkpoint=str(tmp_path / 'evil.pth')))
        )
    assert 'code ran' not in capsys.readouterr().out


def test_a_truncated_checkpoint_is_named(toolkit, tmp_path):
    torch.save(toolkit.make_distiller().network('student1').state_dict(), tmp_path / 's.pth')
    data = (tmp_path / 's.pth').read_bytes()
    (tmp_path / 's.pth').write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="s.pth' is damaged or no checkpoint"):
        toolkit.make_distiller(
            members=toolkit.members(student1=toolkit.yolox(checkpoint=str(tmp_path / 's.pth')))
        )
