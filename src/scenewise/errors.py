"""The one exception a user can cause."""


class UserError(Exception):
    """Bad input, told in one sentence: what is wrong, where, and what to do.

    The command line prints it without a traceback and exits with code 2.

    >>> raise UserError("no such model folder: 'x'; give the folder that fit wrote")
    Traceback (most recent call last):
    scenewise.errors.UserError: no such model folder: 'x'; give the folder that fit wrote
    """
