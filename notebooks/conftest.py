"""What nbval compares of a cell beside its text: its pictures, with a tolerance.

nbval compares outputs byte by byte and so leaves pictures out, whose last bits depend on the
machine. The data behind the figures is compared by the cells themselves; this holds their look: a
wrong colour, a label that moved, a legend that covers something.
"""

from __future__ import annotations

from typing import Any

from nbval.plugin import IPyNbCell

from tests.notebooks.pictures import differences

compare_text = IPyNbCell.compare_outputs


def compare_outputs(cell: Any, drawn: list, stored: list, skip_compare: Any = None) -> bool:
    """Whether a cell's outputs are the stored ones; where not, the cell's report says why."""
    if not compare_text(cell, drawn, stored, skip_compare):
        return False
    cell.comparison_traceback += differences(drawn, stored)
    return not cell.comparison_traceback


IPyNbCell.compare_outputs = compare_outputs
