# IE-KD in place of the feature links of mixed sharing, on the built-in synthetic set, for two CPU
# cores.
# Data: python tools/make_synthetic.py
_base_ = './polyp_unet_mixed_demo.py'
_ie = dict(
    source='teacher',
    tap='feature',
    name='ie',
    weight=0.02,
    loss=dict(type='InheritExploreLoss'),
    connector=dict(type='InheritExplore'),
    source_connector=dict(type='FactorAutoEncoder', joint=True),
)
model = dict(
    sharing=dict(type='kdml_p'), links=[dict(_ie, target='student1'), dict(_ie, target='student2')]
)
