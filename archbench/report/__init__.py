"""The report of a study: tables, figures and one self-contained HTML page.

It reads artifacts and nothing else, and tolerates the absence of any of them: a model that failed is listed as
failed, with the end of its log; one that was not run or interrupted, as not finished. Matplotlib and Jinja2 are
imported inside the functions that need them.
"""
