"""Named presets that expand to links between one teacher and any number of students.

The presets are the rows of Niyaz et al., "Leveraging Different Learning Styles for Improved Knowledge Distillation in
Biomedical Imaging" (arXiv 2212.02931), whose P-only rows are those of Niyaz & Bathula, "Augmenting Knowledge Distillation
With Peer-To-Peer Mutual Learning For Model Compression" (arXiv 2110.11023). The papers have two students; for more, mmkd
alternates the styles: the 1st, 3rd, ... student learns from the teacher by P (predictions), the 2nd, 4th, ... by F (features).
"""

from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError

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


def kinds_for(word, position):
    """Return the kinds (`P`, `F`) that a preset's word means for the student at `position` (0, 1, ...)."""
    style = 'PF'[position % 2]
    return {'style': style, 'other': 'FP'[position % 2]}.get(word, word)


def sharing_links(
    members,
    type,
    weight=1.0,
    tau=1.0,
    schedule=None,
    kd_weight=1.0,
    ml_weight=1.0,
    feature_weight=1.0,
    teacher='teacher',
    students=None,
    prediction=None,
    feature=None,
    feature_tap='feature',
    connector='auto',
    task=None,
):
    """Expand a preset to the configs of its links.

    Args:
        members (list[str]): All members' names.
        type (str): The preset.
        weight (float): Factor of every link. Default: 1.
        tau (float): Temperature of the prediction loss. Default: 1 (the papers give none).
        schedule (dict, optional): Schedule of every link.
        kd_weight, ml_weight (float): Factors of links from the teacher and from peers (b and c of the KDML loss); the
            latter is divided by the number of peers. Defaults: 1, mmkd's choice.
        feature_weight (float): Further factor of feature links. Default: 1.
        teacher (str): The teacher's name.
        students (list[str], optional): The students. Default: all members but the teacher (the
            distiller gives the online ones).
        prediction, feature (dict, optional): Losses in place of the task's own.
        feature_tap (str): Tap of feature links.
        connector: Connector of feature links (see `Link`).

    Returns:
        list[dict]: Configs of links.

    Raises:
        ConfigError: For an unknown preset or member, a missing teacher, or peers where there is one student.
    """
    from_teacher, from_peers = PRESETS[choose(type, PRESETS, 'model.sharing.type')]
    for name, value in dict(
        weight=weight, kd_weight=kd_weight, ml_weight=ml_weight, feature_weight=feature_weight
    ).items():
        check_number(value, f'model.sharing.{name}')
    if students is None:
        students = [name for name in members if name != teacher]
    for name in students:
        choose(name, members, 'model.sharing.students')
    if from_teacher:
        choose(teacher, members, f'model.sharing.teacher ({type} needs one)')
    if from_peers and len(students) < 2:
        raise ConfigError(f'model.sharing: {type} needs two or more students, got {students}')

    def link(source, target, kind, name, factor):
        cfg = dict(
            source=source, target=target, name=name, schedule=schedule, weight=weight * factor
        )
        if kind == 'P':
            loss = prediction or dict(task.default_loss('prediction'), tau=tau)
            return dict(cfg, tap='prediction', loss=loss)
        cfg['weight'] *= feature_weight
        return dict(
            cfg, tap=feature_tap, loss=feature or task.default_loss('feature'), connector=connector
        )

    links = []
    for position, student in enumerate(students):
        links += [
            link(teacher, student, kind, 'kd', kd_weight)
            for kind in kinds_for(from_teacher, position)
        ]
        for peer in students:
            if peer != student:
                links += [
                    link(peer, student, kind, 'ml', ml_weight / (len(students) - 1))
                    for kind in kinds_for(from_peers, position)
                ]
    return links
