"""A local server that honours the API's contract, to develop and test against.

Nothing leaves the machine, and every event an application sends can be looked at:

    from cms_python.sandbox import Sandbox

    with Sandbox() as sandbox:
        ...  # point the application at sandbox.url, with any token
        assert ["signup_started"] == [event.event_name for event in sandbox.events]

``python -m cms_python.sandbox`` runs the same server from the command line. Opened in a browser,
its address shows what arrives. All of it needs the extra
``pip install "cms-python-client[sandbox]"``.
"""

import sys
from importlib.util import find_spec

_NEEDED = ("openapi_schema_validator", "werkzeug", "yaml")
_HINT = 'The sandbox needs an extra that is not installed: pip install "cms-python-client[sandbox]"'

if any(find_spec(name) is None for name in _NEEDED):
    # While `python -m` looks for a module, argv[0] is "-m". It imports this package before
    # __main__ gets a chance to catch anything, so the way out without a traceback is here.
    if sys.argv[:1] == ["-m"]:
        sys.stderr.write(f"{_HINT}\n")
        raise SystemExit(2)
    raise ImportError(_HINT)

from cms_python.sandbox.server import Sandbox  # noqa: E402 - only once its needs are known to be met
from cms_python.sandbox.store import RecordedEvent  # noqa: E402 - as above

__all__ = ["RecordedEvent", "Sandbox"]
