from ports.loading import export as export
from ports.loading import load as load
