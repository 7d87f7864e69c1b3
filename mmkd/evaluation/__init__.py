from .binary_classification import BinaryClassification

__all__ = ['BinaryClassification']
