"""What all phases of a step have in common: what is to be done, by what means, and what has become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mvpnet.app import guest_shell
from mvpnet.app.limiter import CapacityLimiter
from mvpnet.app.metrics import Metrics
from mvpnet.dataplane.address import host_name
from mvpnet.paths import RunFolder
from mvpnet.runtime.loop import Loop
from mvpnet.runtime.processes import Programs
from mvpnet.spec.app_steps import Step

Login = tuple[int, str | None]  # a guest, and who goes in


@dataclass
class StepResult:
    """What became of a step: its exit code, and that of each guest. A step that did not begin has none."""

    name: str
    kind: str
    exit_code: int | None = None
    exit_codes: dict[str, int] = field(default_factory=dict)  # by guest
    seconds: float | None = None
    problems: list[str] = field(default_factory=list)

    def fail(self, code: int, problem: str) -> None:
        """The first code that is not 0 is the step's."""
        self.exit_code = self.exit_code or code
        self.problems.append(problem)


@dataclass(frozen=True)
class StepContext:
    """A step, the guests that it is for, and where its result, its metrics and its files go.

    `environment(None)` is that of programs on the host, `environment(rank)` what is added in a guest. `let_in` are the
    logins that are known to work; `limiter` keeps the logins at a time within the step's limit.
    """

    loop: Loop
    programs: Programs
    step: Step
    result: StepResult
    run: RunFolder
    ranks: list[int]
    environment: Callable[[int | None], Mapping[str, str]]
    metrics: Metrics
    let_in: set[Login]
    limiter: CapacityLimiter

    def fail(self, code: int, leaf: str, problem: str) -> None:
        """Fail the step; `leaf` is the key of the step that it is about."""
        self.result.fail(code, f"{self.step.key}{leaf}: {problem}")

    def ssh(self, rank: int) -> list[str]:
        """The ssh command into a guest, but for the command there."""
        return guest_shell.ssh_argv(self.run.ssh_config, rank, self.step.user)

    def rounds(self, ranks: list[int]) -> int:
        """How often the limiter is filled until each of these has had a turn."""
        return -(-len(ranks) // self.limiter.most)

    def suffix(self, rank: int | None) -> str:
        """What goes behind the names of metrics that several guests may measure."""
        return "" if rank is None or len(self.ranks) == 1 else f".{host_name(rank)}"


def place_name(rank: int | None) -> str:
    """Where a program runs, for people; None is the host."""
    return "the host" if rank is None else host_name(rank)
