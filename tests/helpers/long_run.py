"""Whether the long run is asked for, as by `make faults`: it tries all where CI tries some."""

import os

LONG = os.environ.get("DLKDD_FAULTS") == "long"
