"""What the other steps of a plan left behind, for a step that takes it away."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from planrunner.model import Belongs
from planrunner.step import Cleaning, Scanning

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from planrunner.ingress import Ingress
    from planrunner.model import Json, Plan, Residue, StepSpec
    from planrunner.step import Action, Run, Step


@dataclass(frozen=True, kw_only=True)
class PlanOthers:
    """The steps of ``plan`` but for ``own``; ``run`` gives what each of them sees. ``told`` is what they said.

    ``ingress`` gives the plan's rules at the source's door, ``forget`` is called when the last of them is gone.
    """

    plan: Plan
    own: str
    find: Callable[[str], Step]
    run: Callable[[StepSpec], Run]
    told: set[str] = field(default_factory=set)
    ingress: Callable[[], Ingress | None] = lambda: None
    forget: Callable[[], None] = lambda: None

    def leftovers(self) -> tuple[Action, ...]:
        """Every removal that is still to be done, the last step's first."""
        found = tuple(action for spec in reversed(self.plan.steps) for action in self._of(spec))
        return (*found, *self._rules())

    def harmful(self) -> tuple[Residue, ...]:
        """What is left of this plan and should not be; two steps that see the same tell it once."""
        found: dict[Residue, None] = {}
        for spec in self.plan.steps:
            step = self.find(spec.uses)
            if isinstance(step, Scanning):
                found |= dict.fromkeys(step.residue(self.run(spec)))
        ingress = self.ingress()
        found |= dict.fromkeys(ingress.residue() if ingress else ())
        return tuple(r for r in found if r.harmful and r.ours is Belongs.THIS_PLAN)

    def _rules(self) -> Iterator[Action]:
        """The rules that let us in at the source: the way there is shut last."""
        ingress = self.ingress()
        removals = ingress.removals() if ingress else ()
        yield from removals[:-1]
        yield from (replace(last, perform=_then(last, self.forget)) for last in removals[-1:])

    def _of(self, spec: StepSpec) -> Iterator[Action]:
        step = self.find(spec.uses)
        if spec.id == self.own or not isinstance(step, Cleaning):
            return
        run = self._quieter(self.run(spec))
        for action in step.leftovers(run):
            yield replace(action, name=f"{spec.id} {action.name}", perform=_bound(action, run))

    def _quieter(self, run: Run) -> Run:
        # Steps are asked more than once, and say the same thing each time.
        def tell(message: str, fields: Mapping[str, Json]) -> None:
            if message not in self.told:
                self.told.add(message)
                run.tell(message, fields)

        return replace(run, tell=tell)


def _bound(action: Action, run: Run) -> Callable[[Run], None]:
    return lambda _: action.perform(run)


def _then(action: Action, done: Callable[[], None]) -> Callable[[Run], None]:
    def perform(run: Run) -> None:
        action.perform(run)
        done()

    return perform
