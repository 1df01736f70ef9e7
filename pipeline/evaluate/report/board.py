"""The report in TensorBoard: held-out losses and metrics along every version's path, and the matrix as a table."""

import shutil
from pathlib import Path
from typing import Any

from perdure.pipeline.evaluate.report.formats import format_change
from perdure.pipeline.evaluate.report.text_tables import markdown_table
from perdure.pipeline.evaluate.report_types import Report
from perdure.pipeline.evaluate.version_types import ByDomain, VersionSummary


def write_board(report: Report, directory: Path) -> None:
    """Writes a TensorBoard run for every measured version, in place of what was there.

    Its steps are the tokens of the lineage: 0 is the initial model, then each version on the path stands at the tokens
    that it and its ancestors trained on. So `heldout_loss/<domain>` draws what the path learned and forgot. Of an ancestor
    that was left before its end, only the place where it was left is on the path, if it was measured there.

    Args:
        report: What `report.json` holds.
        directory: Where the runs go, each under its version's name.
    """
    shutil.rmtree(directory, ignore_errors=True)
    rows = {version["id"]: losses for version, losses in zip(report["versions"], report["loss_matrix"][1:])}
    by_name = {version["id"]: version for version in report["versions"]}
    for name in report["acc"]:
        writer = _Writer(directory / name)
        path = [name]
        while (parent := by_name[path[0]]["parent"]) is not None:
            path.insert(0, parent)
        for domain, loss in zip(report["domains"], report["loss_matrix"][0]):
            writer.scalar(f"heldout_loss/{domain}", loss, 0)
        for member, after in zip(path, [*path[1:], None]):
            if after is not None and by_name[after]["left_at_step"] is not None:
                _write_start(writer, by_name[after], rows[after])
                continue
            step = by_name[member]["lineage_tokens"]
            if step is None:
                continue
            for domain, loss in zip(report["domains"], rows[member]):
                writer.scalar(f"heldout_loss/{domain}", loss, step)
            for key in ("acc", "bwt", "fwt", "fwt_gem"):
                writer.scalar(f"ledger/{key}", report[key].get(member), step)  # type: ignore[literal-required]  # a loop
            if (forgetting := report["forgetting"].get(member)) is not None:
                writer.scalar("ledger/forgetting", forgetting["mean"], step)
        writer.text("loss_matrix", _table(report), by_name[name]["lineage_tokens"] or 0)
        writer.close()


def _write_start(writer: "_Writer", version: VersionSummary, losses: list[float | None]) -> None:
    """Writes the losses of what a version started from: its own minus the change."""
    for (domain, change), loss in zip(version["change"].items(), losses):
        if loss is not None and change is not None:
            step = (version["lineage_tokens"] or 0) - version["tokens"]
            writer.scalar(f"heldout_loss/{domain}", loss - change, step)


def _table(report: Report) -> str:
    """The matrix in Markdown, as TensorBoard shows it."""
    rows = [["version", *report["domains"]]]
    models: list[tuple[str, ByDomain]] = [("initial model", {})]
    models += [(version["id"], version["change"]) for version in report["versions"]]
    for (name, changes), losses in zip(models, report["loss_matrix"]):
        cells = [name]
        for domain, loss in zip(report["domains"], losses):
            change = changes.get(domain)
            beside = "" if change is None else f" ({format_change(change)})"
            cells.append("-" if loss is None else f"{loss:.3f}{beside}")
        rows.append(cells)
    return markdown_table(rows)


class _Writer:
    """Writer of an event file with the `tensorboard` package alone; torch's takes seconds to import."""

    def __init__(self, directory: Path):
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        directory.mkdir(parents=True)
        self.file = EventFileWriter(str(directory))

    def scalar(self, tag: str, value: float | None, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        if value is not None:
            self._add(Summary.Value(tag=tag, simple_value=value), step)

    def text(self, tag: str, markdown: str, step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto

        plugin = SummaryMetadata.PluginData(plugin_name="text", content=b"")
        metadata = SummaryMetadata(plugin_data=plugin)
        tensor = TensorProto(dtype="DT_STRING", string_val=[markdown.encode()])
        self._add(Summary.Value(tag=f"{tag}/text_summary", metadata=metadata, tensor=tensor), step)

    def _add(self, value: Any, step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.file.add_event(Event(step=step, summary=Summary(value=[value])))

    def close(self) -> None:
        self.file.close()
