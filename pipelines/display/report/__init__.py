"""The recipe's report: figures, the stage table, three claims checked, one HTML file that needs nothing else.

Enters: a `StageResult` per checkpoint, plain data that the recipe collects. Leaves: matplotlib figures (`figures`),
table cells (`stage_table`), claims with their numbers (`claims`) and `report.html` (`write_report`). Nothing here reads
a store.
"""

from pipelines.display.report.claims import Claim, claims
from pipelines.display.report.figures import figures
from pipelines.display.report.page import write_report
from pipelines.display.report.results import StageResult, stage_table

__all__ = ["Claim", "StageResult", "claims", "figures", "stage_table", "write_report"]
