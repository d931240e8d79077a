"""``bloodedge compare``: networks compared with each other and with the paper: figures by split, and cost.

``collect`` reads runs and bundles; ``make_rows`` gathers and pools folds into ``rows`` and adds the paper's figures
(``paper``) and latencies (``latency``); ``cautions`` says where figures are not like for like; ``tables`` puts rows
into words, ``charts`` draws them, ``pages`` writes Markdown and HTML.
"""
