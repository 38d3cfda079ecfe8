"""Names of studies: by which their results and pages lie apart, and what of them the runs of all variations share."""

from hashlib import sha256

from flows.arena.study import Study

LONGEST = 41  # letters of a name before its digest: what is made of it, such as a variant, is cut at 60


def study_name(stem: str, study: Study) -> str:
    """A name that follows from all that was asked for: a study of other parameters keeps its own result and page."""
    return f"{stem[:LONGEST]}-{digest_of(study)}"


def stem_of(name: str, study: Study) -> str:
    """The name without what tells variations of a study apart, such as other seeds or a target: a run that decides none of
    these is the same in all of them."""
    return name.removesuffix(f"-{digest_of(study)}")[:LONGEST]


def digest_of(study: Study) -> str:
    """Eight digits that follow from every field of the study."""
    return sha256(study.model_dump_json().encode()).hexdigest()[:8]
