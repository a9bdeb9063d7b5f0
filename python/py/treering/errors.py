"""Exceptions: one class for each kind of error, by what the caller can do about it."""

from __future__ import annotations


class TreeringError(Exception):
    """Anything that can go wrong in a store.

    Attributes
    ----------
    hint : str or None
        What to do next, where there is more to say than the message does.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __str__(self) -> str:
        message = str(self.args[0])
        return f"{message} ({self.hint})" if self.hint else message


class InvalidError(TreeringError, ValueError):
    """The input or the request makes no sense: change it."""


class MismatchError(InvalidError):
    """What is to be filled does not have the names, shapes or types that were saved. Nothing was changed."""


class NotFoundError(TreeringError, LookupError):
    """Nothing of that name is here."""


class ExistsError(TreeringError):
    """Something of that name is already here."""


class RunExists(ExistsError):
    """The run has steps already, and nothing was loaded from it: a new training would go on in its history."""


class ConflictError(TreeringError):
    """Somebody else was faster: look again, then try again."""


class SaveInProgress(ConflictError):
    """An earlier save is not durable yet, and the run was told not to wait for it."""


class DamagedError(TreeringError):
    """Stored bytes are not what was written."""


class NoSpaceError(TreeringError, OSError):
    """The disk, or its quota, is full. Nothing saved before is touched."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        OSError.__init__(self, message)
        TreeringError.__init__(self, message, hint)


class UnsupportedError(TreeringError):
    """This version, framework or machine cannot do that."""


class ForkedError(UnsupportedError):
    """The store was opened in the parent process: open it again in this one."""


class UnavailableError(TreeringError):
    """The place under the store failed; trying again may help."""


class WaitTimeout(UnavailableError, TimeoutError):
    """What was waited for has not happened yet; it goes on."""


class InternalError(TreeringError):
    """A mistake of ours: please report it."""
