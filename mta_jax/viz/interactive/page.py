"""A page of HTML that needs no other file, with data that cannot become markup."""

import base64
import dataclasses
import hashlib
import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

_FRAME = (
    '<iframe title="{title}" srcdoc="{page}" sandbox="allow-scripts" '
    'style="width: 100%; height: {height}px; border: 0; color-scheme: light dark"></iframe>'
)


@dataclasses.dataclass(frozen=True)
class Page:
    """One complete HTML file. Notebooks show it in a frame, where it touches nothing else.

    Attributes:
      title: of the page.
      html: its text, of ASCII characters only. `str` gives it too.
      height: of the frame, in pixels.
    """

    title: str
    html: str = dataclasses.field(repr=False)
    height: int = 760

    def __str__(self) -> str:
        return self.html

    def save(self, path: str | Path) -> Path:
        """Writes the file, and returns its path."""
        path = Path(path)
        path.write_text(self.html, encoding="ascii")
        return path

    def _repr_html_(self) -> str:
        return _FRAME.format(
            title=_as_text(self.title), page=html.escape(self.html), height=self.height
        )


def page_of(template: str, *, title: str, data: Any) -> Page:
    """A page from the files of a template, which are in this folder.

    The page may run its own script and nothing else: its policy has the script's digest.

    Args:
      template: name of the HTML, CSS and JavaScript files without their ends. In the HTML,
        `{{title}}`, `{{policy}}`, `{{style}}`, `{{script}}` and `{{data}}` are replaced.
      title: of the page; plain text.
      data: what the script reads as JSON from its page.
    """
    markup, style, script = (
        resources.files(__package__).joinpath(f"{template}.{end}").read_text(encoding="ascii")
        for end in ("html", "css", "js")
    )
    parts = {
        "title": _as_text(title),
        "policy": (
            f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
            "base-uri 'none'; form-action 'none'"
        ),
        "style": style,
        "script": script,
        "data": _as_json(data),
    }
    # One pass: what is put in is never looked at again.
    text = re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], markup)
    return Page(title, text)


def _as_text(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode("ascii")


def _as_json(data: Any) -> str:
    """JSON in which no character means anything to HTML."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _digest(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
