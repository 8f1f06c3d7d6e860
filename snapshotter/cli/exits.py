"""Exit codes of all commands: a script need not read what a command prints.

2 is click's, for a command line that is not understood.
"""

FINE = 0
"""Yes; done; nothing is wrong."""

ERROR = 1
"""It cannot be told: no daemon where one is needed, no permission, an error on the way."""

USAGE = 2

NO = 3
"""No: it would download, something was found, it is not there, it did not come in time."""
