"""Early stopping: `config.train.patience`."""

import json

from ctxseg import processes
from ctxseg.runs import metrics_log, record


class EarlyStopping:
    """Counts the evaluations since the one with the best score.

    Attributes:
        best: step and score of the best evaluation, the first of equal ones; None before the first evaluation.
    """

    def __init__(self, patience: int):
        """`patience`: the number of evaluations without a better score after which training stops; 0: never."""
        self.best: tuple[int, float] | None = None
        self._patience, self._since = patience, 0

    @property
    def stops(self) -> bool:
        """Whether training stops."""
        return 0 < self._patience <= self._since

    def add(self, step: int, score: float) -> None:
        """Counts an evaluation."""
        if self.best is None or score > self.best[1]:
            self.best, self._since = (step, score), 0
        else:
            self._since += 1


def of_run(config, folder: str, step: int) -> EarlyStopping:
    """The state after `step` steps of the run in `folder`, from its metrics.jsonl.

    It is the same in all processes of the run, which call this equally often.
    """
    scores = []
    if processes.is_first() and config.train.patience:
        entries = [e for e in metrics_log.read_metrics(folder) if e["kind"] == "eval" and e["step"] <= step]
        scores = [(e["step"], record.main_score(e, config.train.best) or 0.0) for e in entries]
    early = EarlyStopping(config.train.patience)
    for entry in json.loads(processes.gather(json.dumps(scores).encode())[0]):
        early.add(*entry)
    return early
