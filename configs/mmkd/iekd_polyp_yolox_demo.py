# IE-KD on the neck's middle level, with the predictions of teacher and peer, on the built-in
# synthetic set, two CPU cores.
# Data: python tools/make_synthetic.py
_base_ = './polyp_yolox_kdml_demo.py'
_ie = dict(
    source='teacher',
    tap='feature[1]',
    name='ie',
    weight=0.02,
    loss=dict(type='InheritExploreLoss'),
    connector=dict(type='InheritExplore'),
    source_connector=dict(type='FactorAutoEncoder', joint=True),
)
model = dict(links=[dict(_ie, target='student1'), dict(_ie, target='student2')])
