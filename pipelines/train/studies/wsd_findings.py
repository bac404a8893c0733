"""What study `wsd` says to each published claim about schedules.

Enters: differences between arms with intervals. Leaves: findings. A claim of being better is decided by the side of 0
on which the interval lies; a claim of being as good by a margin, since two schedules are never exactly alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipelines.laws.law import Estimate
from pipelines.train.studies.bootstrap import Bootstrapped
from pipelines.train.studies.evidence import folders_of
from pipelines.train.studies.outcome import Finding, verdict_of
from pipelines.train.studies.wsd_reading import Arm, Cells, arm_of, arms_of, beside_own_cosine
from pipelines.train.trials.result import TrialResult

MINICPM = "arXiv 2404.06395 §4.3, Fig. 5"


@dataclass(frozen=True)
class Claim:
    """What is said of an arm. Attributes: agrees, reason: as in a finding; beside, what the arm is compared with."""

    arm: Arm
    claim: str
    published: str
    estimate: Estimate
    agrees: bool | None
    reason: str
    beside: Arm


def findings_of(
    base: Arm, margin: float, trials: Sequence[TrialResult], cells: Cells, said: Bootstrapped
) -> tuple[Finding, ...]:
    """A finding for each claim that the arms can say something to. Args: margin, in percent of the loss."""
    findings = []
    for claim in (*_claims(base, margin, cells, said), *_beyond(base, margin, cells, said)):
        arms = (_carrier(claim.arm), claim.beside)
        both = [sum(claim.arm in losses and claim.beside in losses for losses in seeds) for seeds in cells.values()]
        compared = [count for count in both if count]
        horizons = f"mean over {len(compared)} horizons" if len(compared) > 1 else "at one horizon"
        findings.append(
            Finding(
                claim=claim.claim,
                published=claim.published,
                quantity=f"{claim.arm}: percent of loss above {claim.beside}, {horizons}",
                estimate=claim.estimate,
                verdict=verdict_of(claim.agrees, min(compared, default=0)),
                reason=claim.reason,
                seeds=min(compared, default=0),
                runs=folders_of([trial for trial in trials if arm_of(trial) in arms]),
            )
        )
    return (*findings, *_reuse(base, trials))


def above(estimate: Estimate, bound: float) -> bool | None:
    """Whether the interval lies above a bound; False: below; None: across it."""
    return True if estimate.low >= bound else False if estimate.high < bound else None


def _negated(agrees: bool | None) -> bool | None:
    return None if agrees is None else not agrees


def _lies(estimate: Estimate, bound: float) -> str:
    side = {True: "lies above", False: "lies below", None: "reaches across"}[above(estimate, bound)]
    return f"the interval {side} {bound:+g} %" if bound else f"the interval {side} 0"


def _claims(base: Arm, margin: float, cells: Cells, said: Bootstrapped) -> Iterator[Claim]:
    """Those of MiniCPM."""
    own = said.estimates
    cosine, constant = Arm("cosine"), Arm("constant")
    if (estimate := own.get(str(cosine))) is not None:
        reason = f"{_lies(estimate, -margin)}, below which the cosine would be the better one"
        yield Claim(cosine, "WSD matches or beats a cosine of the same horizon", f"it does, 20N to 80N ({MINICPM})",
                    estimate, above(estimate, -margin), reason, base)  # fmt: skip
    for arm in arms_of(cells):
        if arm.kind == "cosine" and arm.stretch > 1 and (estimate := own.get(beside_own_cosine(arm))) is not None:
            yield Claim(arm, f"a cosine that ends later (T = {arm.stretch:.3g} S) is worse than one with T = S",
                        "T = S is the best cosine (arXiv 2404.06395 §4.1, Fig. 4)", estimate, above(estimate, 0.0),
                        _lies(estimate, 0.0), cosine)  # fmt: skip
    if (estimate := own.get(str(constant))) is not None:
        yield Claim(constant, "the decay lowers the loss", f"sharply, within 10 % of the steps ({MINICPM})", estimate,
                    above(estimate, 0.0), _lies(estimate, 0.0), base)  # fmt: skip
    short, long = Arm("wsd", base.shape, 0.025), Arm("wsd", base.shape, 0.2)
    if (estimate := own.get(str(short))) is not None and short != base:
        reason = f"{_lies(estimate, margin)}, below which it would be as good"
        yield Claim(short, "a decay over 2.5 % of the steps does not suffice", f"2.5 % does not ({MINICPM})", estimate,
                    above(estimate, margin), reason, base)  # fmt: skip
    if (estimate := own.get(str(long))) is not None and long != base:
        reason = f"{_lies(estimate, -margin)}, below which 20 % would be the better one"
        yield Claim(long, f"a decay over {100 * base.share:g} % of the steps suffices", f"10 % does ({MINICPM})",
                    estimate, above(estimate, -margin), reason, base)  # fmt: skip


def _beyond(base: Arm, margin: float, cells: Cells, said: Bootstrapped) -> Iterator[Claim]:
    """Those of papers after it."""
    for arm in arms_of(cells):
        if arm == base or (estimate := said.estimates.get(str(arm))) is None:
            continue
        better = _negated(above(estimate, 0.0))
        if arm.kind == "wsd_s":
            yield Claim(arm, "WSD-S, which goes on from decayed weights, beats WSD", "Wen et al., arXiv 2410.05192",
                        estimate, better, _lies(estimate, 0.0), base)  # fmt: skip
        elif arm == Arm("wsd", "1-sqrt", base.share):
            yield Claim(arm, f"a 1-sqrt decay beats one of shape {base.shape}", "Hägele et al., arXiv 2405.18392",
                        estimate, better, _lies(estimate, 0.0), base)  # fmt: skip
        elif arm.kind == "average":
            reason = f"{_lies(estimate, margin)}, above which the decay is the better one"
            yield Claim(arm, "an average of the trunk's checkpoints replaces the decay", "WSM, arXiv 2507.17634",
                        estimate, _negated(above(estimate, margin)), reason, base)  # fmt: skip


def _carrier(arm: Arm) -> Arm:
    """Whose trials an arm was read along."""
    return Arm("constant") if arm.kind == "average" else Arm("cosine") if arm.kind == "cosine" else arm


def _reuse(base: Arm, trials: Sequence[TrialResult]) -> tuple[Finding, ...]:
    """What one trunk saves; no interval, since it is counted."""
    own = [trial for trial in trials if arm_of(trial) == base]
    decays = {trial.tokens: trial.runs[-1].schedule.decay_steps * trial.runs[-1].batch_tokens for trial in own}
    if len(decays) < 2:
        return ()
    seeds = min(len({trial.seed for trial in own if trial.tokens == horizon}) for horizon in decays)
    trunk = max(tokens - decay for tokens, decay in decays.items())
    ratio = (trunk + sum(decays.values())) / sum(decays)
    return (
        Finding(
            claim="one trunk serves every horizon: each costs its decay alone",
            published="O(m) tokens instead of O(m²) for m horizons (arXiv 2404.06395 §4.5)",
            quantity=f"tokens for {len(decays)} horizons off one trunk, as a part of those for a run each",
            estimate=Estimate(ratio, ratio, ratio),
            verdict=verdict_of(ratio < 1, seeds),
            reason="counted, not estimated; the weights are bit-equal to those of a run each",
            seeds=seeds,
            runs=folders_of(own),
        ),
    )
