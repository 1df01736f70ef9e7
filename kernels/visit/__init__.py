"""One visit to a machine with a GPU: everything worth knowing, measured within minutes; `python -m perdure.kernels.visit OUT`."""
