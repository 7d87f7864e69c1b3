"""Who is the teacher, who are the students, and whom the ensemble fuses."""

from collections.abc import Mapping
from typing import Any


def teacher_of(sharing: Mapping | str | None) -> str:
    """Return the name of the teacher, if there is one: `sharing.teacher`, else `teacher`."""
    return sharing.get('teacher', 'teacher') if isinstance(sharing, Mapping) else 'teacher'


def students_among(trainings: Mapping[str, str], sharing: Mapping | str | None) -> list[str]:
    """Return the students: the online members other than the teacher.

    Args:
        trainings: Each member's `training`.
        sharing: The preset, which may give the teacher another name.
    """
    teacher = teacher_of(sharing)
    return [name for name, kind in trainings.items() if kind == 'online' and name != teacher]


def students_of(model: Mapping[str, Any]) -> list[str]:
    """Return the students of an OnlineDistiller's config.

    Args:
        model: The config's `model`: its `members` (None drops one) and `sharing` are read.
    """
    trainings = {
        name: member.get('training', 'online')
        for name, member in model['members'].items()
        if member is not None
    }
    return students_among(trainings, model.get('sharing'))


def ensemble_of(model: Mapping[str, Any]) -> list[str]:
    """Return whom the ensemble of an OnlineDistiller's config fuses.

    These are `ensemble.members`; without them the students; without students all members.
    """
    named = (model.get('ensemble') or {}).get('members')
    present = [name for name, member in model['members'].items() if member is not None]
    return list(named or students_of(model) or present)
