# What a study of MetaMixer trains many times: msi_resnet_kdml_study.py's two students, 3 epochs, under each of `variants`.
_base_ = './msi_resnet_kdml_study.py'
model = dict(
    members=dict(teacher=None),
    sharing=dict(type='ml_p', tau=4.0),
    mixer=dict(type='MetaMixer', depths=(0, 1, 2, 3)),
)
variants = dict(
    baseline={'model.mixer': None, 'model.sharing.type': 'individual'},
    ml={'model.mixer': None},
    local_only={'model.mixer.global_prob': 0.0},
    global_only={'model.mixer.local_prob': 0.0},
    metamixer={},
)
