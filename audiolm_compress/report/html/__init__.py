"""report.html: one self-contained page with plots, and with every clip to hear and to read."""

from audiolm_compress.report.html.content import Content
from audiolm_compress.report.html.of_report import of_report
from audiolm_compress.report.html.page import render
from audiolm_compress.report.html.settings import PageSettings

__all__ = ["Content", "PageSettings", "of_report", "render"]
