# What a finished teacher's predictions and features give two narrow ResNets with 100 labeled images
# a class, 60 epochs (docs/studies/tiny20_features). The teacher first:
#   python tools/train.py configs/mmkd/studies/tiny20_teacher.py \
#       --work-dir work_dirs/studies/tiny20_teacher
_base_ = './tiny20_peers.py'
model = dict(
    members=dict(
        teacher=dict(training='frozen', checkpoint='work_dirs/studies/tiny20_teacher/epoch_30.pth')
    ),
    sharing=dict(tau=3.0),
)
