"""Measuring and reporting: normalised mean errors, their summary, charts and the report page."""
