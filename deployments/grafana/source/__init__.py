"""The code that `dashboards/knowledgebeast-overview.json` is made from: a file for each row, and how panels look in one place.

`python -m deployments.grafana.source` writes the file, with `--check` it only says whether it is up to date. Needs the `dev` extra.
"""
