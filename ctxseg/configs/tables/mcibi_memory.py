"""MCIBI (Jin et al., ICCV 2021), Table 2: initialisation and update of the memory, and representation consistent learning (RCL)."""

from ctxseg.studies.tables import Row, Table


def get_table(dataset: str = "ade20k") -> Table:
    def row(name, paper, cosine=True, polynomial=True, clustering=False, rcl=False):
        overrides = {
            "model.memory.cosine": cosine,
            "model.memory.polynomial": polynomial,
            "model.memory.first": "clustering" if clustering else "random",
            "loss.memory": 1.0 if rcl else 0.0,
        }
        return Row(name, "mcibi", overrides, (paper,))

    return Table(
        "mcibi_memory",
        "MCIBI, Table 2",
        dataset,
        [
            row("polynomial momentum", 41.77, cosine=False),
            row("cosine weights", 41.95, polynomial=False),
            row("both", 42.18),
            row("both, clustering", 42.20, clustering=True),
            row("both, RCL", 42.84, rcl=True),
            row("both, clustering, RCL", 42.75, clustering=True, rcl=True),
        ],
    )
