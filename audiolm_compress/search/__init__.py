"""A search over the choices of a recipe: one study, many trials, each of them a full run with its report.

    recipe with choices -> configuration -> apply_recipe -> report -> ... -> Pareto front, best recipe

Optuna proposes configurations (`study.py`); several processes or machines that share the output folder work
on one study, and the same command again goes on where it was interrupted.
"""

from audiolm_compress.search.run import search_recipe

__all__ = ["search_recipe"]
