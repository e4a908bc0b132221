# Generated from openapi.yaml. Edit templates/ and run `make generate`.
import sys
from dataclasses import dataclass, field
from typing import NoReturn, Optional

from cms_python._version import __version__

SERVERS = ("https://app.cutmeshort.com", "https://www.cutmeshort.com")
USER_AGENT = f"cms-python-client/{__version__} Python/{sys.version_info[0]}.{sys.version_info[1]}"


@dataclass(frozen=True)
class Configuration:
    """Where requests go, and how. Opens nothing; shows no secret in its repr; is not pickled.

    ``host`` is an absolute URL, by default the first of ``SERVERS``. ``access_token`` travels as
    ``Authorization: Bearer``. ``proxy`` is a URL and may hold credentials. ``ssl_ca_cert`` names a
    PEM file to trust in place of the system's; ``cert_file`` and ``key_file`` name a client
    certificate. At most ``connection_pool_maxsize`` idle connections are kept. ``user_agent`` goes
    out as the header of that name.
    """

    host: Optional[str] = None
    access_token: Optional[str] = field(default=None, repr=False)
    proxy: Optional[str] = field(default=None, repr=False)
    ssl_ca_cert: Optional[str] = None
    cert_file: Optional[str] = None
    key_file: Optional[str] = None
    connection_pool_maxsize: int = 64
    user_agent: str = USER_AGENT

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Configuration holds a token and is not pickled: make one a process")
