"""One self-contained HTML page from a run's records: what was found, how sure that is, what is not known.

`Run.load(folder)` reads a finished run, `build(run)` makes its page, `compare(runs)` the page that puts several side by side.
A page needs no network and asks for none.
"""

from ipjax.report.page import build as build
from ipjax.report.page import compare as compare
from ipjax.report.run import Run as Run
