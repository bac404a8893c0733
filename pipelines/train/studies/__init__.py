"""The table of studies. To add one: a file here, a line below, a YAML in conf/sandbox/."""

from pipelines.train.studies.batch import BATCH
from pipelines.train.studies.contract import Study
from pipelines.train.studies.coord import COORD
from pipelines.train.studies.data import DATA
from pipelines.train.studies.hparams import HPARAMS
from pipelines.train.studies.lr import LR
from pipelines.train.studies.mixtures import MIXTURES
from pipelines.train.studies.scaling import SCALING
from pipelines.train.studies.wsd import WSD

STUDIES: dict[str, Study] = {
    "coord": COORD,
    "hparams": HPARAMS,
    "lr": LR,
    "batch": BATCH,
    "wsd": WSD,
    "scaling": SCALING,
    "data": DATA,
    "mixtures": MIXTURES,
}
