"""What was said so far, and the request that the next prompt makes of it."""

from dataclasses import dataclass, field

from tpictl.commands.sampling import Sampling


@dataclass(slots=True)
class Conversation:
    model: str
    sampling: Sampling
    system: str | None = None
    turns: list[dict[str, str]] = field(default_factory=list)  # user and assistant by turns

    def request(self, prompt: str) -> dict[str, object]:
        """The body of a chat request: the whole history and `prompt`."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages = [*system, *self.turns, {"role": "user", "content": prompt}]
        return {"model": self.model, "messages": messages, **self.sampling.as_body()}

    def add(self, prompt: str, answer: str) -> None:
        """An answer that was cut counts as far as it came. One that never began leaves no trace:
        templates want user and assistant by turns."""
        if answer:
            self.turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    def forget(self) -> None:
        self.turns.clear()
