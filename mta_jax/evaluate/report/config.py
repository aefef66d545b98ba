"""What is reported."""

import dataclasses

DEFAULT_PROMPT = "The cat saw the dog. The dog saw"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """A report in Markdown and HTML."""

    runs: str | list[str] = dataclasses.field(default_factory=list)
    """Run folders, or folders that compare runs, or globs of them."""

    evaluations: str | list[str] = dataclasses.field(default_factory=list)
    """Folders that evaluations wrote, their `--output`, or globs of them."""

    output: str
    """New folder for report.html, which needs no other file, report.md and its pictures."""

    prompt: str = DEFAULT_PROMPT
    """Text whose attention is drawn for runs that learned text; at most 64 tokens."""

    def __post_init__(self) -> None:
        if not self.given_runs and not self.given_evaluations:
            raise ValueError("runs [], evaluations []: name at least one run or evaluation")
        if not self.prompt:
            raise ValueError("prompt '': must have at least one character")
        if not self.output:
            raise ValueError("output '': name a new folder")

    @property
    def given_runs(self) -> list[str]:
        """As a list, as they were given."""
        return _listed(self.runs)

    @property
    def given_evaluations(self) -> list[str]:
        """As a list, as they were given."""
        return _listed(self.evaluations)


def _listed(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value
