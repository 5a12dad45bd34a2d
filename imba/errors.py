"""The one error that a user can cause."""


class UserError(Exception):
    """Something in the input is wrong; the message names the sample or file and the mend.

    The command line prints it without a traceback and exits with code 2.
    """
