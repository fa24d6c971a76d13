"""The base of every error that a user can meet and mend."""


class PlatformError(Exception):
    """An expected failure. Its message names the thing, the value and the fix, in one line: the
    command line prints it, the run and the sensor's tick show it, none of them with a traceback.
    """
