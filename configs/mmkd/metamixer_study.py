# The two students of msi_resnet_kdml_study.py, 3 epochs, with MetaMixer;
# docs/studies/metamixer has the arms.
_base_ = './msi_resnet_kdml_study.py'
model = dict(
    members=dict(teacher=None),
    sharing=dict(type='ml_p', tau=4.0),
    mixer=dict(type='MetaMixer', depths=(0, 1, 2, 3)),
)
