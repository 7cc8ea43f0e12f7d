"""What a pass is written with, in one place: other packages import this and no module beside it.

CONTRIBUTING.md writes a pass of these names. What a pass does to the model are methods of ``Salmonn``
(``layers``, ``keep_layers``, ``replace_module``, ``cast``, ...) and ``torch``; what it finds out on
calibration clips is here.
"""

from __future__ import annotations

from audiolm_compress.data.example import Example
from audiolm_compress.data.loading import in_turn
from audiolm_compress.errors import PassError
from audiolm_compress.passes.base import Context, Pass, PassReport, Progress
from audiolm_compress.passes.calibration_loss import calibration_loss
from audiolm_compress.passes.layer_states import layer_states
from audiolm_compress.passes.part_calibration import evaluating, part_calibration
from audiolm_compress.planning.sketch import Sketch
from audiolm_compress.salmonn.model import Salmonn

__all__ = [
    "Context",
    "Example",
    "Pass",
    "PassError",
    "PassReport",
    "Progress",
    "Salmonn",
    "Sketch",
    "calibration_loss",
    "evaluating",
    "in_turn",
    "layer_states",
    "part_calibration",
]
