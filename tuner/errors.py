"""The two ways in which a command can end badly. Each carries one sentence: what is wrong, where, what to do."""


class RequestError(ValueError):
    """The request was wrong: an option, an input, values that do not fit together. Exit code 2."""


class RunError(RuntimeError):
    """The request was right and the run failed all the same. Exit code 1."""


class Interrupted(Exception):
    """The user stopped the run; what was done is saved. Exit code 130."""
