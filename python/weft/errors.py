"""What weft raises. Each message names the argument, variable or rank that is at fault."""


class Error(RuntimeError):
    """Any fault of weft's."""


class InvalidArgument(Error, ValueError):
    """An argument or variable is wrong, whatever the others do."""


class ResourceExhausted(Error):
    """An expert got more rows than its capacity, or memory is full."""


class Unimplemented(Error, NotImplementedError):
    """Valid, but not supported here."""


class Unavailable(Error, ConnectionError):
    """Another rank is gone."""


class DeadlineExceeded(Error, TimeoutError):
    """A wait for another rank expired."""


class Aborted(Error):
    """Another rank failed or asked for an end."""
