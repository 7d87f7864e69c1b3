from .online_distiller import OnlineDistiller

__all__ = ['OnlineDistiller']
