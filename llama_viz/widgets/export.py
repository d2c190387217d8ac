"""An explorer as one HTML file: no kernel, no network, everything inside."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_viz.widgets.modules import page_script, styles
from llama_viz.widgets.packing import packed_message

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llama_viz.widgets.packing import Packed

# Deflated is kept where it saves a little at least: it costs time when the page opens.
WORTH_DEFLATING = 0.97

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="generator" content="llama_viz">
<title>{title}</title>
<style>
{styles}</style>
</head>
<body class="lv-alone">
<main id="explorer"></main>
<noscript>This page is an explorer and needs JavaScript. It loads nothing from anywhere.</noscript>
<script type="application/json" id="content">{content}</script>
{arrays}
<script>{script}</script>
</body>
</html>
"""


def html_page(
    page: str,
    title: str,
    state: Mapping[str, Any],
    header: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray | Packed],
) -> str:
    """The text of a page with the explorer <page>.js, its state and its content.

    Its Content-Security-Policy lets this one script run and forbids every connection. Texts of the
    header are JSON in which no "<" is left, so that none of them can end its element.
    """
    specs, buffers = packed_message(arrays)
    script = page_script(page)
    content = {"state": dict(state), "header": dict(header), "arrays": specs}
    return _PAGE.format(
        policy=_policy(script),
        title=html.escape(title),
        styles=styles(page),
        content=_json(content),
        arrays="\n".join(
            _array_element(data, np.dtype(spec["dtype"]).itemsize)
            for spec, data in zip(specs, buffers, strict=True)
        ),
        script=script,
    )


def _policy(script: str) -> str:
    """Nothing but this script, the styles and pictures in the page; no connection to anywhere."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def _json(content: Any) -> str:
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def bytes_in_page(array: np.ndarray) -> int:
    """The bytes that an array takes in a page, less the third that base64 adds."""
    return min(len(_deflated(array.tobytes(), array.itemsize)), array.nbytes)


def _deflated(data: bytes, item_size: int) -> bytes:
    return zlib.compress(np.frombuffer(data, np.uint8).reshape(-1, item_size).T.tobytes(), 9)


def _array_element(data: bytes, item_size: int) -> str:
    """An array as text: deflated where that pays, the first bytes of all numbers before the next.

    So alike bytes stand together, as in HDF5's shuffle filter: it saves another twentieth.
    """
    deflated = _deflated(data, item_size)
    pays = len(deflated) < WORTH_DEFLATING * len(data)
    text = base64.b64encode(deflated if pays else data).decode("ascii")
    mark = f' data-deflated="{item_size}"' if pays else ""
    return f'<script type="application/octet-stream" data-array{mark}>{text}</script>'
