"""The files of the page."""

from __future__ import annotations

from pathlib import Path

from werkzeug.wrappers import Response

from cms_python.sandbox.answers import Refusal

_FOLDER = Path(__file__).parent / "page"
_MEDIA_TYPES = {
    "index.html": "text/html",
    "page.css": "text/css",
    "page.js": "text/javascript",
}
# The page shows what strangers sent: should any of it ever be taken for code, it must not run.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
}


def asset(name: str) -> Response:
    """Answer with a file of the page, if it is one."""
    media_type = _MEDIA_TYPES.get(name)
    if media_type is None:
        raise Refusal("not_found", "There is nothing at this address.")
    try:
        content = (_FOLDER / name).read_bytes()
    except FileNotFoundError:
        raise Refusal("not_found", "The page is not part of this installation.") from None
    return Response(content, 200, _HEADERS, content_type=f"{media_type}; charset=utf-8")
