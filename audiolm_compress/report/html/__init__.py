"""report.html: one self-contained page with plots, and with every clip to hear and to read."""

from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.page import render
from audiolm_compress.report.html.settings import PageSettings
from audiolm_compress.report.html.sources import of_benchmark, of_report

__all__ = ["Content", "PageSettings", "of_benchmark", "of_report", "render"]
