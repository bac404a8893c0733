"""What is measured along a trial, in the process that trains it. To add a measure: a file here, a line below."""

from pipelines.train.measures.answers import ANSWERS
from pipelines.train.measures.averages import AVERAGES
from pipelines.train.measures.coordinates import COORDINATES
from pipelines.train.measures.heldout import HELDOUT
from pipelines.train.measures.measure import Measure

MEASURES: dict[str, Measure] = {
    "coordinates": COORDINATES,
    "heldout": HELDOUT,
    "answers": ANSWERS,
    "averages": AVERAGES,
}
