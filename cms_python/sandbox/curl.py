"""An entry as a curl command, to send the same event again from a shell."""

from __future__ import annotations

from shlex import quote

from cms_python.sandbox.entries import Entry

# In double quotes, unlike the rest, so that the shell puts the token in: an entry has it masked.
_AUTHORIZATION = '"Authorization: Bearer ${CMS_BEARER_TOKEN:-any-token}"'


def curl_command(entry: Entry, host_url: str) -> str:
    """A command for any POSIX shell; without the idempotency key, so it is a new request."""
    parts = [
        f"curl -X {quote(entry.method)} {quote(host_url.rstrip('/') + entry.path)}",
        f"-H {_AUTHORIZATION}",
        f"-H {quote('Content-Type: ' + entry.request_headers.get('Content-Type', ''))}",
        # --data-raw, because --data would read a file where the body begins with an @.
        f"--data-raw {quote(entry.body)}",
    ]
    return " \\\n  ".join(parts) + "\n"
