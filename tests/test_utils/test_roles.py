"""Who the students are, for models and for configs."""

import pytest

from mmkd.utils.roles import ensemble_of, students_of

NET = dict(config='x.py')
FROZEN = dict(NET, training='frozen', checkpoint='x.pth')


@pytest.mark.parametrize(
    'model, students, ensemble',
    [
        (dict(members=dict(teacher=NET, a=NET, b=NET)), ['a', 'b'], ['a', 'b']),
        (dict(members=dict(teacher=NET, a=NET, b=None)), ['a'], ['a']),
        (dict(members=dict(t=NET, a=NET), sharing=dict(type='kd_p', teacher='t')), ['a'], ['a']),
        (dict(members=dict(teacher=FROZEN, a=NET), sharing='kd_p'), ['a'], ['a']),
        (dict(members=dict(a=NET, avg=dict(training='ema', of='a'))), ['a'], ['a']),
        (dict(members=dict(teacher=NET)), [], ['teacher']),
        (dict(members=dict(teacher=NET, f=FROZEN), ensemble=None), [], ['teacher', 'f']),
        (
            dict(members=dict(teacher=NET, a=NET), ensemble=dict(members=['teacher'])),
            ['a'],
            ['teacher'],
        ),
    ],
)
def test_students_and_ensemble(model, students, ensemble):
    assert students_of(model) == students
    assert ensemble_of(model) == ensemble


def test_a_distiller_says_the_same(toolkit):
    model = dict(members=toolkit.members(students=2), sharing='individual')
    assert toolkit.make_distiller(init=False, **model).ensemble_members == ensemble_of(model)
    alone = dict(members=dict(teacher=toolkit.yolox()))
    assert toolkit.make_distiller(init=False, **alone).ensemble_members == ensemble_of(alone)
