"""The report as one page that opens from disk: `python -m experiments.report runs/NAME --html` (see docs/report.md).

`media` decides what is embedded of a trial, `tree` finds what its search went through, `page` puts both and the
report's sections into `page.html`. In the browser `page.js` decodes media as they come into view, `rows.js` plays the
videos of a prompt together, `tree.js` draws a search and plays its candidates, `blind.js` asks for preferences.
"""
