"""The table of studies. To add one: a file here, a line below, a YAML in conf/sandbox/."""

from pipelines.train.studies.contract import Study

STUDIES: dict[str, Study] = {}
