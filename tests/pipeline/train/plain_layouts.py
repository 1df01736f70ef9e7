"""One layout of each kind, as a recipe's `parallel`."""

DISTRIBUTED = {"data_parallel": 2, "distributed_optimizer": True}
LAYOUTS: dict[str, dict] = {
    "tp1": {},
    "tp2": {"tensor_parallel": 2},
    "pp2": {"pipeline_parallel": 2},
    "dp2": DISTRIBUTED,
}
