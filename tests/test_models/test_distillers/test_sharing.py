import pytest

from mmkd.models.distillers.sharing import PRESETS, sharing_links
from mmkd.utils.errors import ConfigError

# arXiv 2212.02931: what goes over T->S1, T->S2, S2->S1, S1->S2
EXPECTED = {
    'individual': ('', '', '', ''),
    'kd_p': ('P', 'P', '', ''),
    'kd_f': ('F', 'F', '', ''),
    'kd_mixed': ('P', 'F', '', ''),
    'ml_p': ('', '', 'P', 'P'),
    'ml_f': ('', '', 'F', 'F'),
    'ml_mixed': ('', '', 'F', 'P'),
    'kdml_p': ('P', 'P', 'P', 'P'),
    'kdml_f': ('F', 'F', 'F', 'F'),
    'kdml_mixed_complement': ('P', 'F', 'F', 'P'),
    'kdml_mixed_same': ('P', 'F', 'P', 'F'),
    'kdml_mixed_full': ('P', 'F', 'PF', 'PF'),
}


RULE = dict(type='GradientShare', share=0.3)


class Losses:
    @staticmethod
    def default_loss(tap):
        return dict(type=tap)


class Classes:
    @staticmethod
    def default_loss(tap):
        return dict(type='KLDivergence')


def expand(members, task=Losses, **options):
    return sharing_links(members, task=task(), **options)


@pytest.mark.parametrize('preset', EXPECTED)
def test_edges_of_each_preset(preset):
    links = expand(['teacher', 's1', 's2'], type=preset)
    edges = [('teacher', 's1'), ('teacher', 's2'), ('s2', 's1'), ('s1', 's2')]
    found = tuple(
        ''.join(
            'P' if link['tap'] == 'prediction' else 'F'
            for link in links
            if (link['source'], link['target']) == edge
        )
        for edge in edges
    )
    assert found == EXPECTED[preset]
    assert len(links) == sum(map(len, EXPECTED[preset]))
    assert set(EXPECTED) == set(PRESETS)


def test_peers_share_the_mutual_weight():
    links = expand(
        ['teacher', 'a', 'b', 'c'], type='kdml_p', weight=2.0, kd_weight=0.5, ml_weight=3.0
    )
    assert {link['weight'] for link in links if link['source'] == 'teacher'} == {1.0}
    assert {link['weight'] for link in links if link['source'] != 'teacher'} == {2.0 * 3.0 / 2}
    assert sum(link['target'] == 'a' for link in links) == 3


@pytest.mark.parametrize('preset', ['kdml_p', 'kdml_mixed_full'])
def test_the_mean_of_the_peers_is_one_link_a_student(preset):
    students = ['a', 'b', 'c', 'd']
    mean = dict(type='MeanProbability')
    links = expand(['teacher', *students], type=preset, ml_weight=3.0, peers=mean)
    combined = [link for link in links if isinstance(link['source'], list)]
    assert [(link['target'], link['source']) for link in combined] == [
        (name, [other for other in students if other != name]) for name in students
    ]
    assert all(link['combine'] == mean and link['weight'] == 3.0 for link in combined)
    rest = [link for link in links if link['name'] == 'ml' and link not in combined]
    assert {link['tap'] for link in rest} == (set() if preset == 'kdml_p' else {'feature'})


def test_a_link_with_the_same_sources_in_another_order_replaces_the_presets(toolkit):
    mean = dict(type='MeanProbability')
    own = dict(source=['student3', 'student2'], target='student1', combine=mean, weight=0.1)
    sharing = dict(type='ml_p', peers=mean)
    model = toolkit.make_distiller(members=toolkit.members(3), sharing=sharing, links=[own])
    sources = {link.target: link.source for link in model.links}
    assert len(model.links) == 3 and sources['student1'] == ['student3', 'student2']
    assert sources['student2'] == ['student1', 'student3']


@pytest.mark.parametrize(
    'options, prediction, feature',
    [
        ({}, 1.0, dict(type='GradientShare', share=0.1)),
        (dict(weight=2.0), 2.0, dict(type='GradientShare', share=0.2)),
        (dict(weight=2.0, feature_weight=0.5), 2.0, 1.0),
        (dict(weight=RULE), RULE, RULE),
        (dict(weight=RULE, feature_weight=0.5), RULE, dict(RULE, share=0.15)),
        (dict(feature_weight=RULE, ml_weight=0.5), 0.5, dict(RULE, share=0.15)),
    ],
)
def test_weights_of_predictions_and_features(options, prediction, feature):
    """Features have a share of the task's gradient, unless a number or a rule is given."""
    links = expand(['a', 'b'], type='ml_mixed', **options)
    assert {link['tap']: link['weight'] for link in links} == dict(
        prediction=prediction, feature=feature
    )


def test_the_temperature_of_the_task_stays_where_none_is_given():
    losses = {tau: expand(['a', 'b'], type='ml_p', tau=tau)[0]['loss'] for tau in (None, 1.0, 4.0)}
    assert losses[None] == dict(type='prediction')
    assert losses[1.0] == dict(type='prediction', tau=1.0) and losses[4.0]['tau'] == 4.0


def test_the_temperature_on_unlabeled_images_is_that_of_a_loss_that_has_one():
    link, _ = expand(['a', 'b'], type='cps', tau=2.0)
    assert link['loss'] == dict(type='prediction', tau=2.0)
    with pytest.raises(ConfigError, match='tau: mean_teacher has .*without a temperature; got 2.0'):
        expand(['a', 'b'], Classes, type='mean_teacher', tau=2.0)


def test_a_task_without_a_loss_of_its_own_leaves_it_to_the_link():
    """Which asks for one; one that is given is taken."""

    class NoLoss:
        @staticmethod
        def default_loss(tap):
            return None

    assert expand(['a', 'b'], NoLoss, type='cps')[0]['loss'] is None
    given = dict(type='X')
    assert expand(['a', 'b'], NoLoss, type='peers_ema', prediction=given)[0]['loss'] == given


def test_complement_gives_each_student_both_kinds():
    links = expand(['teacher', 'a', 'b', 'c', 'd'], type='kdml_mixed_complement')
    for student in 'abcd':
        assert {link['tap'] for link in links if link['target'] == student} == {
            'prediction',
            'feature',
        }


@pytest.mark.parametrize(
    'members, options, message',
    [
        (['a', 'b'], dict(type='kd_p'), "model.sharing.teacher .*'teacher'"),
        (['teacher', 'a'], dict(type='ml_p'), 'two or more students'),
        (['teacher', 'a', 'b'], dict(type='kdml_mix'), "did you mean 'ml_mixed'"),
        (['teacher', 'a', 'b'], dict(type='kd_p', students=['c']), 'model.sharing.students'),
        (['a', 'b'], dict(type='ml_f', peers=dict(type='MeanProbability')), 'sharing.peers: ml_f'),
        (['a', 'b'], dict(type='ml_f', weight=RULE, feature_weight=RULE), 'both rules'),
        (['a', 'b'], dict(type='ml_f', weight=2.0, feature_weight=dict(type='X')), 'no share'),
        (['a', 'b'], dict(type='ml_f', feature_weight='a'), 'model.sharing.feature_weight'),
        (['a', 'b'], dict(type='ml_p', tau=2, prediction=dict(type='X')), 'tau: .* prediction='),
    ],
)
def test_wrong_presets(members, options, message):
    with pytest.raises(ValueError, match=message):
        expand(members, **options)
