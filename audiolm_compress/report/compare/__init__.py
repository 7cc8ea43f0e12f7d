"""Any number of runs beside each other, each against its own baseline."""

from audiolm_compress.report.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
