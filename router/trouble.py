"""What fails again and again is told once, and once more when it works again."""

from dataclasses import dataclass

import structlog


@dataclass(slots=True)
class Trouble:
    """One thing that is tried again until it works: an outage of Redis makes two lines of it, not one a second."""

    what: str
    """As the log names it: `lease` makes `lease.failed`, then `lease.works_again`."""
    log: structlog.typing.FilteringBoundLogger
    failures: int = 0
    """In a row."""

    def failed(self, error: BaseException) -> None:
        """It did not work this time."""
        if not self.failures:
            self.log.warning(f"{self.what}.failed", error=str(error) or type(error).__name__)
        self.failures += 1

    def worked(self) -> None:
        """It did."""
        if self.failures:
            self.log.info(f"{self.what}.works_again", failures=self.failures)
        self.failures = 0
