from .base import Mix, Mixer
from .meta_mixer import MetaMixer

__all__ = ['MetaMixer', 'Mix', 'Mixer']
