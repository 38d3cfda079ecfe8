"""Settings of what starts and records stages (lm/settings.py says what a setting is)."""

from lm.settings import Setting, integer, one_of, seconds, text

RANKS = integer("TOKENMILL_RANKS", 1, 1, "processes that train a model together, on a GPU each where there are any")
WORKERS = integer(
    "TOKENMILL_WORKERS", None, 1, "stages that run at once, over a checkout and its variants",
    unset="1 on up to two processors, else 2, and any number that has a GPU each",
)  # fmt: skip
SHARED_LOCKS = text(
    "TOKENMILL_LOCKS",
    ".scratch/locks",
    "a folder",
    "folder of locks; checkouts that share it count their stages together",
)
RESUME = one_of(
    "TOKENMILL_RESUME", "", ("anyway",), "go on from a checkpoint of another kind of machine, whose bytes differ"
)
TRUNKS = text(
    "TOKENMILL_TRUNKS", "", "a folder", "folder of stored states of training, which runs of other lengths or decays go on from",
    unset="none are stored",
)  # fmt: skip
TRUNKS_SIZE = integer(
    "TOKENMILL_TRUNKS_SIZE", 16384, 0, "MiB that the trunks may fill; those unused for longest go first", of="MiB"
)
TRACKING = one_of("TOKENMILL_TRACKING", "on", ("on", "off"), "whether runs are recorded in MLflow")
TRACKING_SECONDS = seconds(
    "TOKENMILL_TRACKING_SECONDS",
    30.0,
    "seconds that the end of a stage waits for a store that does not take its run",
    least=1,
)
AUDIT = one_of("TOKENMILL_AUDIT", "0", ("0", "1"), "1: a stage fails where it reads what is not in its key")
PROGRESS = one_of(
    "TOKENMILL_PROGRESS", "", ("lines",), "a stage says how far it is in lines for the flow", reader="itself"
)


def passed_on(name: str, meaning: str) -> Setting[str]:
    """A variable that one of our processes sets for another, and nobody else."""
    return text(name, "", "set by Tokenmill", meaning, reader="itself")


PASSED_ON = [
    passed_on("TOKENMILL_RECORDER", "the socket by which the process of the pipeline records a stage's run"),
    passed_on("TOKENMILL_PARENT_RUN", "the MLflow run of the pipeline that a stage's run belongs to"),
    passed_on("TOKENMILL_FLOW_RUN", "the Prefect run that a stage's run is tagged with"),
    passed_on("TOKENMILL_MEETING", "the file by which ranks of one machine meet"),
    passed_on("TOKENMILL_PARENT", "the process of rank 0"),
    passed_on("TOKENMILL_LOADED", "the time since which a stage's process reads its code, in ns"),
    passed_on("TOKENMILL_HELD", "1: our own start of DVC holds what it records to what the stage read"),
    passed_on("TOKENMILL_AUDIT_TRACES", "where an audited stage's processes write what they open"),
]
