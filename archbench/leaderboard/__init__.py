"""Leaderboards: models of the Hugging Face hub by popularity, and the user's own runs by quality.

hub_query, hub_cache, hub_models   what the hub says about models, asked once a day
database, study_runs, exchange     what finished studies leave behind, in one SQLite file
versus, ranking                    runs of different studies against each other, case by case
pages                              both as HTML, JSON and Markdown
"""

BOARDS = "results/leaderboard"
HUB_CACHE = "results/cache/hub"
