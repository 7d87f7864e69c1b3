class ConfigError(ValueError):
    """A wrong input: a config, data set, checkpoint or command line that cannot be meant.

    The message names the key, the value, what was expected and the nearest valid name. The tools
    show it as one message with exit status 1; every other exception keeps its traceback.
    """
