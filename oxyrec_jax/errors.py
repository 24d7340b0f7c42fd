"""What is raised when a user, not a program, is wrong; importable without JAX."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one clear sentence: the file, row or field, what was found, what was
    expected and what to do. The command line prints it without a traceback and exits
    with code 2.
    """
