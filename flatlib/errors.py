"""The exceptions a user is meant to read: what is wrong, where, and what is allowed, in one line."""


class FlatlibError(Exception):
    """Bad input or an impossible request. The command line prints it without a traceback and exits with 2."""


class NotFinite(FlatlibError):
    """A loss, a gradient or an output is infinite or not a number: nothing can be measured there."""


class NotDefined(FlatlibError):
    """A measure has no value for this network: it is recorded as missing, and the run goes on."""
