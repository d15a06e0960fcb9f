from ports.loading import DIGITS as DIGITS
from ports.loading import export as export
from ports.loading import load as load
