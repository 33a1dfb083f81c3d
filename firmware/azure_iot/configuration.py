"""The configuration file of a device, `device.json`.

Responsible for: reading it whole, or saying that it is not. Not for: what has to be in it
(bringup.py). Loaded for that, and forgotten.
"""

import json

from .errors import CredentialError


def read(path: str) -> dict:
    """Read the object in a JSON file. Raises CredentialError in words for anything else."""
    try:
        with open(path) as file:
            text = file.read()
        config = json.loads(text)
        # MicroPython's parser takes an outermost object without its end, but then what is put
        # behind it counts as a part of it.
        whole = len(json.loads("[%s,0]" % text)) == 2
    except OSError as error:
        raise CredentialError("no configuration file %s" % path, error)
    except ValueError as error:
        raise CredentialError("the configuration file %s is no JSON, or it was cut" % path, error)
    if not whole:
        raise CredentialError("the configuration file %s was cut: copy it whole" % path)
    if not isinstance(config, dict):
        raise CredentialError("the configuration file %s holds no JSON object" % path)
    return config
