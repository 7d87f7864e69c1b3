from .polyp_detection import PolypDetection

__all__ = ['PolypDetection']
