"""The report of a run: `python -m experiments.report runs/NAME` (see docs/report.md).

Read in this order: `__main__` (the sections in order), `data` (the stored tables), `policies` (labels, budgets,
references), `statistics` (intervals), `comparisons` (policies over trials), `words`, `page` and `plots` (what a section
is made of), then one file a section in `sections`.
"""
