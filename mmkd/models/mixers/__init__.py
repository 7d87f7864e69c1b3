from .meta_mixer import MetaMixer

__all__ = ['MetaMixer']
