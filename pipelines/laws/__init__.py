"""Laws: curves through points of runs, with intervals. To add one: a file here, a line below.

`from pipelines.laws.fitting import fit, predict` is how they are used.
"""

from pipelines.laws.batch import LAW as BATCH
from pipelines.laws.chinchilla import LAW as CHINCHILLA
from pipelines.laws.lr import LAW as LR
from pipelines.laws.minicpm import LAW as MINICPM
from pipelines.laws.power import LAW as POWER
from pipelines.laws.shape import Law

LAWS: dict[str, Law] = {"chinchilla": CHINCHILLA, "minicpm": MINICPM, "batch": BATCH, "lr": LR, "power": POWER}
