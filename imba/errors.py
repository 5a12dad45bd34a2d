"""What goes wrong in a way that a user can mend."""

from __future__ import annotations

from cpam_bench.imba.problems import printable


class UserError(Exception):
    """Something in the input is wrong; the message names the sample or file and the mend.

    The command line prints it without a traceback and exits with code 2.  Names of files and texts of others stand in
    it as text: what a terminal would obey is written out.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class DiskFull(Exception):
    """The disk is full: what was written before is whole, and the same command continues once there is room."""


class Damaged(Exception):
    """A file of a run is missing, cut short or changed; the message names it."""
