"""Named presets that expand to links between one teacher and any number of students.

The first twelve are the rows of Niyaz et al., "Leveraging Different Learning Styles for Improved
Knowledge Distillation in Biomedical Imaging" (arXiv 2212.02931), whose P-only rows are those of
Niyaz & Bathula, "Augmenting Knowledge Distillation With Peer-To-Peer Mutual Learning For Model
Compression" (arXiv 2110.11023). The papers have two students; for more, mmkd alternates the
styles: the 1st, 3rd, ... student learns from the teacher by P (predictions), the 2nd, 4th, ... by
F (features).

The others learn from unlabeled images: `cps` (cross pseudo supervision, Chen et al., arXiv
2106.01226), `mean_teacher` (Tarvainen & Valpola, arXiv 1703.01780), `peers_ema` (each student from
the other and from the averages of both, after UCMT, arXiv 2301.04465) and `fixmatch` (Sohn et al.,
arXiv 2001.07685).
"""

from collections.abc import Sequence
from typing import Any

from mmkd.utils.checks import check_different, check_number, choose
from mmkd.utils.errors import ConfigError

from .link_spec import BATCHES

# Features of networks that are both in training hold each other back at a fixed weight.
FEATURE_WEIGHT = dict(type='GradientShare', share=0.1)

# preset: (what the teacher sends to a student, what its peers send to it)
PRESETS = {
    'individual': ('', ''),
    'kd_p': ('P', ''),
    'kd_f': ('F', ''),
    'kd_mixed': ('style', ''),
    'ml_p': ('', 'P'),
    'ml_f': ('', 'F'),
    'ml_mixed': ('', 'other'),
    'kdml_p': ('P', 'P'),
    'kdml_f': ('F', 'F'),
    'kdml_mixed_complement': ('style', 'other'),
    'kdml_mixed_same': ('style', 'style'),
    'kdml_mixed_full': ('style', 'PF'),
}
# preset: (from the averages of the students, from the peers, from oneself), on unlabeled images
UNLABELED_PRESETS = {
    'cps': (False, True, False),
    'mean_teacher': (True, False, False),
    'peers_ema': (True, True, False),
    'fixmatch': (False, False, True),
}
# What their `PseudoLabel` has that is not its default.
PSEUDO_LABELS: dict[str, dict[str, Any]] = {
    'mean_teacher': dict(mode='soft'),
    'fixmatch': dict(threshold=0.95),
}


def kinds_for(word: str, position: int) -> str:
    """Return the kinds (`P`, `F`) that a preset's word means for the student at `position`."""
    style = 'PF'[position % 2]
    return {'style': style, 'other': 'FP'[position % 2]}.get(word, word)


def kinds_of_peers(type: str) -> str:
    """Return the kinds that a preset sends between two or more peers; none for unlabeled ones."""
    word = PRESETS.get(type, ('', ''))[1]
    return kinds_for(word, 0) + kinds_for(word, 1)


def average_of(student: str) -> str:
    """Return the name of the ema member that a preset adds for a student."""
    return f'{student}_ema'


def sharing_members(
    type: str, students: Sequence[str], ema_momentum: float = 0.01
) -> dict[str, dict[str, Any]]:
    """Return the configs of the ema members that a preset needs beside the config's own.

    Args:
        type: The preset.
        students: The students.
        ema_momentum: Weight of the new value in each average. Default: 0.01 (UCMT's).
    """
    if not UNLABELED_PRESETS.get(str(type), (False,))[0]:
        return {}
    return {
        average_of(name): dict(training='ema', of=name, momentum=ema_momentum) for name in students
    }


def sharing_links(
    members: Sequence[str],
    type: str,
    weight: float | dict[str, Any] = 1.0,
    tau: float | None = None,
    schedule: dict[str, Any] | None = None,
    kd_weight: float = 1.0,
    ml_weight: float = 1.0,
    feature_weight: float | dict[str, Any] | None = None,
    teacher: str = 'teacher',
    students: Sequence[str] | None = None,
    prediction: dict[str, Any] | None = None,
    feature: dict[str, Any] | None = None,
    feature_tap: str = 'feature',
    connector: Any = 'auto',
    peers: dict[str, Any] | None = None,
    guard: Any = None,
    only_if_better: str | None = None,
    on: str | None = None,
    ema_momentum: float = 0.01,
    task: Any = None,
) -> list[dict[str, Any]]:
    """Expand a preset to the configs of its links.

    Args:
        members: All members' names.
        type: The preset. Options of links that it does not make do nothing (`tau` of `kd_f`,
            `feature` of `kd_p`, all of `individual`): so `sharing.type` alone turns a config into
            another preset or its control. `peers` is refused there.
        weight: Factor of every link, or the config of a `WeightRule` for each
            (`dict(type='GradientShare', share=0.1)`), whose `share` the factors below multiply.
        tau: Temperature of the prediction loss. Default: that of the task's own loss, 3 for classes
            of images and 1 elsewhere, mmkd's choice (the papers give none). Where the loss is
            another one (`prediction`, or `PseudoLabel` on unlabeled images), it has its own.
        schedule: Schedule of every link.
        kd_weight: Factor of links from the teacher (b of the KDML loss) and, for unlabeled images,
            from averages. Default: 1, mmkd's choice.
        ml_weight: Factor of links from peers (c of the KDML loss), divided by their number.
            Default: 1, mmkd's choice.
        feature_weight: Of feature links: a number, which multiplies `weight`, or the config of a
            `WeightRule`, whose `share` `weight` multiplies. Default: `GradientShare(share=0.1)`,
            mmkd's choice, or `weight` where that is a rule. At a fixed weight of 1 features cost
            students one to three points in mmkd's first studies.
        teacher: The teacher's name.
        students: The students. Default: all members but the teacher (the distiller gives the
            online ones).
        prediction: Loss in place of the task's own. The presets for unlabeled images have
            `PseudoLabel` for logits: hard labels, as in CPS; soft ones for `mean_teacher`; only
            those of a probability of 0.95 for `fixmatch`, the threshold of its paper.
        feature: Loss in place of `PearsonFeature`. The mixed-sharing paper's distance of normalized
            maps at a fixed weight is `feature=dict(type='FeatureMSE'), feature_weight=1.0`.
        feature_tap: Tap of feature links.
        connector: Connector of feature links (see `LinkSpec`).
        peers: Config of a combiner (`dict(type='MeanProbability')`): each student then learns the
            predictions of its peers by one link from what they make together, instead of one from
            each. Features still come from each. Default: a link from each peer.
        guard: Guard of every link (see `LinkSpec`).
        only_if_better: Of every link (see `LinkSpec`).
        on: The images that every link acts on: `labeled`, `unlabeled` or `both`. Of unlabeled ones
            the teacher and averages see the weak view, peers the same strong view as their target.
            Default: `labeled` for the first twelve presets, `unlabeled` for the others.
        ema_momentum: See `sharing_members`.
        task: The members' task, which has the default losses.

    Raises:
        ConfigError: For an unknown preset or member, a missing teacher, peers where there is one
            student, two weights that are both rules, or a `tau` beside a loss of predictions that
            has none.
    """
    choose(type, [*PRESETS, *UNLABELED_PRESETS], 'model.sharing.type')
    if on is None:
        on = 'unlabeled' if type in UNLABELED_PRESETS else 'labeled'
    choose(on, (*BATCHES, 'both'), 'model.sharing.on')
    if feature_weight is None:
        feature_weight = 1.0 if isinstance(weight, dict) else FEATURE_WEIGHT
    factors = dict(
        kd_weight=kd_weight, ml_weight=ml_weight, weight=weight, feature_weight=feature_weight
    )
    for name, value in factors.items():
        if not (isinstance(value, dict) and name in ('weight', 'feature_weight')):
            check_number(value, f'model.sharing.{name}')
    if isinstance(weight, dict) and isinstance(feature_weight, dict):
        raise ConfigError(
            f'model.sharing: weight {weight} and feature_weight {feature_weight} are both rules; '
            'expected a number for one of them'
        )
    if students is None:
        students = [name for name in members if name != teacher]
    for name in students:
        choose(name, members, 'model.sharing.students')
    check_different(students, 'model.sharing.students')

    def link(source: Any, target: str, kind: str, name: str, factor: float) -> dict[str, Any]:
        cfg = dict(source=source, target=target, name=name, schedule=schedule, guard=guard)
        cfg.update(only_if_better=only_if_better, on=on)
        if kind == 'F':
            cfg.update(tap=feature_tap, loss=feature or task.default_loss('feature'))
            cfg['connector'] = connector
        elif kind == 'P':
            loss = prediction or task.default_loss('prediction')
            if prediction is None and tau is not None:
                loss = dict(loss, tau=tau)
            cfg.update(tap='prediction', loss=loss)
        own = _scaled(weight, feature_weight) if kind == 'F' else weight
        cfg['weight'] = _scaled(own, factor)
        return cfg

    if tau is not None and prediction is not None:
        raise ConfigError(
            f"model.sharing.tau: is of the task's own loss; got {tau} beside prediction="
            f'{prediction}; set tau=None, and give that loss a temperature of its own if it has one'
        )
    if peers is not None and 'P' not in kinds_of_peers(type):
        raise ConfigError(f'model.sharing.peers: {type} has no predictions of peers to combine')
    if UNLABELED_PRESETS.get(type, (False,) * 3)[2] and on != 'unlabeled':
        raise ConfigError(
            f"model.sharing.on: {type} is for 'unlabeled' images, on which each student learns "
            f'from itself; got {on!r}'
        )
    if type in UNLABELED_PRESETS:
        loss = _unlabeled_loss(type, task, tau) if prediction is None else prediction
        return _unlabeled_links(link, type, students, loss, kd_weight, ml_weight)
    from_teacher, from_peers = PRESETS[type]
    if from_teacher:
        choose(teacher, members, f'model.sharing.teacher ({type} needs one)')
    if from_peers and len(students) < 2:
        raise ConfigError(f'model.sharing: {type} needs two or more students, got {list(students)}')
    links = []
    for position, student in enumerate(students):
        for kind in kinds_for(from_teacher, position):
            links.append(link(teacher, student, kind, 'kd', kd_weight))
        others = [name for name in students if name != student]
        kinds = kinds_for(from_peers, position)
        if peers is not None and 'P' in kinds:
            cfg = link(others, student, 'P', 'ml', ml_weight)
            links.append(dict(cfg, source_view='strong', combine=peers))
            kinds = kinds.replace('P', '')
        for peer in others:
            for kind in kinds:
                cfg = link(peer, student, kind, 'ml', ml_weight / len(others))
                links.append(dict(cfg, source_view='strong'))
    return links


def _unlabeled_links(
    link: Any,
    type: str,
    students: Sequence[str],
    loss: dict[str, Any] | None,
    kd_weight: float,
    ml_weight: float,
) -> list[dict[str, Any]]:
    averages, peers, oneself = UNLABELED_PRESETS[type]
    if (peers or type == 'peers_ema') and len(students) < 2:
        raise ConfigError(f'model.sharing: {type} needs two or more students, got {list(students)}')
    links = []
    for student in students:
        others = [name for name in students if name != student]
        if averages:
            names = [average_of(s) for s in (students if type == 'peers_ema' else [student])]
            cfg = link(names, student, '', 'ema', kd_weight)
            if len(names) > 1:
                cfg['combine'] = dict(type='MeanProbability')
            links.append(cfg)
        for peer in others if peers else []:
            # Both peers' one forward on the strong view serves as source and as target.
            cfg = link(peer, student, '', 'cps', ml_weight / len(others))
            links.append(dict(cfg, source_view='strong'))
        if oneself:
            links.append(link(student, student, '', 'self', kd_weight))
    return [{**cfg, 'tap': 'prediction', 'loss': loss} for cfg in links]


def _unlabeled_loss(type: str, task: Any, tau: float | None) -> dict[str, Any] | None:
    """Return the loss of a preset for unlabeled images, where the config gives none."""
    own: dict[str, Any] | None = task.default_loss('prediction')
    if own is None:
        return None  # the link asks for one
    if own['type'] != 'KLDivergence':
        return own if tau is None else dict(own, tau=tau)
    loss = dict(type='PseudoLabel', **PSEUDO_LABELS.get(type, {}))
    if tau is not None:
        raise ConfigError(
            f'model.sharing.tau: {type} has {loss}, without a temperature; got {tau}; what works: '
            f"prediction=dict(type='PseudoLabel', mode='sharp', tau={tau})"
        )
    return loss


def _scaled(weight: float | dict[str, Any], factor: float | dict[str, Any]) -> Any:
    """Return the product of two numbers, or of the share of a rule and a number."""
    rule, number = (factor, weight) if isinstance(factor, dict) else (weight, factor)
    assert not isinstance(number, dict)
    if not isinstance(rule, dict):
        return rule * number
    if number == 1:
        return dict(rule)
    if 'share' not in rule:
        raise ConfigError(
            f'model.sharing: {rule} has no share for weight, kd_weight, ml_weight and '
            'feature_weight to multiply'
        )
    return dict(rule, share=rule['share'] * number)
