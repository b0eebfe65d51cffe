"""gather: anomalies are explained and go to incidents, each window once at most."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from agents.archiving import quarantine_table
from agents.explain import Why, reasons
from agents.partition import PartitionState, RouteState
from agents.publish import Judged
from agents.revise import Anomaly
from agents.score import arrays
from agents.window import logarithms
from detectors.model import Model
from schemas.messages import Incident


def gather(
    state: PartitionState, route: RouteState, model: Model, judged: Judged
) -> tuple[list[Incident], pa.Table | None]:
    """Gather anomalies, and see to what revisions change about them (:mod:`agents.revise`).

    Explanations and incidents are noted in ``judged``. Returns what incidents have to say, and
    the rows of the anomalies for the quarantine, if there are any.
    """
    windows, is_anomaly = judged.windows, judged.verdicts.is_anomaly
    messages: list[Incident] = []
    anomalies = np.flatnonzero(is_anomaly)
    whys = _explain(state, route, model, judged, anomalies) if len(anomalies) else {}
    newest = np.maximum(np.maximum.accumulate(windows.end), route.newest)
    surge = np.zeros(len(windows), dtype=bool)
    revised = np.zeros(len(windows), dtype=bool) if windows.revised is None else windows.revised
    for index in np.flatnonzero(is_anomaly | revised).tolist():
        if not is_anomaly[index]:
            _take_back(route, judged, index)
            continue
        judged.contributions[index] = whys[index].top
        span = int(windows.start[index]), int(windows.end[index])
        found = None
        if revised[index]:
            found = route.told.find(judged.ids[index], windows.key[index], *span)
        if found is None:
            found, said = _place(route, judged, index, int(newest[index]), whys[index])
            messages += said
            state.ledger.anomalies += 1
            if windows.revised is not None and state.stream.lateness:
                route.told.put(judged.ids[index], found)
        surge[index] = found.surge
        if found.incident_id is not None:
            judged.incidents[index] = found.incident_id
    if not len(anomalies):
        return messages, None
    few = windows.select(anomalies)
    return messages, quarantine_table(state.partition, few, surge[anomalies])


def _explain(
    state: PartitionState,
    route: RouteState,
    model: Model,
    judged: Judged,
    anomalies: NDArray[np.intp],
) -> dict[int, Why]:
    """Say why anomalies are odd, by their place among the windows."""
    few = judged.windows.select(anomalies)
    whys = reasons(
        model.description.layout,
        few,
        model.explain(arrays(few)),
        records=judged.records,
        fields=state.stream.of_type("category"),
        templates=route.templates,
        logs=logarithms(state.stream),
        sensitive=[n for n, f in state.stream.fields.items() if f.sensitive],
    )
    return dict(zip(anomalies.tolist(), whys, strict=True))


def _place(
    route: RouteState, judged: Judged, index: int, now: int, why: Why
) -> tuple[Anomaly, list[Incident]]:
    """Take an anomaly to its incident."""
    windows, key = judged.windows, judged.windows.key[index]
    start, end = int(windows.start[index]), int(windows.end[index])
    placed = route.incidents.add(
        judged.ids[index],
        key,
        end,
        now,
        float(judged.scores[index]),
        float(judged.verdicts.p_value[index]),
        float(judged.verdicts.threshold[index]),
        why,
    )
    return Anomaly(key, start, end, placed.incident_id, placed.surge), placed.messages


def _take_back(route: RouteState, judged: Judged, index: int) -> None:
    """See to a revision that is no anomaly: it is published if one before it was."""
    retracted, event_id = judged.windows.retracted, judged.ids[index]
    if event_id not in route.told and not judged.chosen[index]:
        del judged.ids[index]
    if retracted is not None and retracted[index]:
        route.told.retract(event_id)
