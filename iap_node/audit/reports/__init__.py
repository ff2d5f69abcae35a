"""Reports of what the audit found: of a folder, a series, a study, a scanner over a period, and a month.

One module per report, each with `as_html`, `as_csv` and `as_json`; pages/ has a template per report and what they
share. Pages are self-contained: no scripts, no links, drawings as inline SVG. Header text comes from outside: pages
escape it, no cell of a table can be taken for a formula. Called by the commands `audit` and `report`, and by the
scheduler.
"""
