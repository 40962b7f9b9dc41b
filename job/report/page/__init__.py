"""`report/report.html`: one page that holds its script, style, charts and most pictures, and asks no network."""
