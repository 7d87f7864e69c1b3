from .hooks import *  # noqa: F401,F403
from .loops import *  # noqa: F401,F403
from .member_log_processor import MemberLogProcessor  # noqa: F401
from .optimizers import *  # noqa: F401,F403
from .schedules import *  # noqa: F401,F403
