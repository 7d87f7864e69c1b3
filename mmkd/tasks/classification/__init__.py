from .classification_task import ClassificationTask

__all__ = ['ClassificationTask']
