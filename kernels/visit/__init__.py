"""One visit to a machine with a GPU: what is worth knowing, within minutes; `python -m perdure.kernels.visit OUT`."""
