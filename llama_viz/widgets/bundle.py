"""What a widget leaves on a page: the live view, and a picture with its words for no kernel."""

from __future__ import annotations

import base64
from typing import Any

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def picture_bundle(model_id: str | None, text: str, png: bytes | None) -> dict[str, Any]:
    """The three forms of one widget: JupyterLab with a kernel takes the view, others the picture.

    text describes the picture to those who do not see it; without a picture it stands alone.
    """
    bundle: dict[str, Any] = {
        "text/plain": text,
        WIDGET_VIEW: {"version_major": 2, "version_minor": 0, "model_id": model_id},
    }
    if png is not None:
        bundle["image/png"] = base64.b64encode(png).decode("ascii")
    return bundle
