"""Pretrained weights into the networks of `ipjax.models`: `load`, and `python -m ports` on the command line."""

from ports.loading import DIGITS as DIGITS
from ports.loading import export as export
from ports.loading import from_state_dict as from_state_dict
from ports.loading import load as load
from ports.loading import locate as locate
