# In two rounds, by one command, on Kvasir-SEG for two CPU cores: two students alone first, with
# labels for half of the images; then their frozen ensemble teaches two new ones on all images.
_base_ = './one_student_unet_cpu.py'
_student = _base_.model.members.student1
_first = dict(config=_student.config, options=_student.options)
_students = ['student1', 'student2']
pretrain = dict(members=['first1', 'first2'])
model = dict(
    members=dict(student=None, first1=dict(_first, seed=3), first2=dict(_first, seed=4)),
    links=[
        dict(
            source=['first1', 'first2'],
            target=target,
            combine=dict(type='MeanProbability'),
            loss=dict(type='PseudoLabel', mode='soft', dice_weight=1.0),
            on='both',
        )
        for target in _students
    ],
)
default_hooks = dict(checkpoint=dict(save_best='ensemble/mDice'))
