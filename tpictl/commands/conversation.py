"""What was said so far, and the request that the next prompt makes of it."""

from dataclasses import dataclass, field

from tpictl.commands.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a person has typed, and the text that the model gets: with the files that are named in it."""

    typed: str
    sent: str


@dataclass(frozen=True, slots=True)
class Turn:
    prompt: Prompt
    answer: str


@dataclass(slots=True)
class Conversation:
    model: str
    sampling: Sampling
    system: str | None = None
    turns: list[Turn] = field(default_factory=list)

    def request(self, prompt: str) -> dict[str, object]:
        """The body of a chat request: the whole history and `prompt`."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns:
            messages.append({"role": "user", "content": turn.prompt.sent})
            messages.append({"role": "assistant", "content": turn.answer})
        messages.append({"role": "user", "content": prompt})
        return {"model": self.model, "messages": messages, **self.sampling.as_body()}

    def add(self, prompt: Prompt, answer: str) -> None:
        """An answer that was cut counts as far as it came. One that never began leaves no trace:
        templates want user and assistant by turns."""
        if answer:
            self.turns.append(Turn(prompt, answer))

    def forget(self) -> None:
        self.turns.clear()
