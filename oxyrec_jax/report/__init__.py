"""The report of a run: one HTML file that explains itself and opens without network."""

from oxyrec_jax.report.page import write_report
from oxyrec_jax.report.scenario_page import write_scenario_page
from oxyrec_jax.report.sections import Example
from oxyrec_jax.report.story_page import write_story_page
from oxyrec_jax.report.tokenizer_page import write_tokenizer_page

__all__ = ["Example", "write_report", "write_scenario_page",
           "write_story_page", "write_tokenizer_page"]
