"""Talks to OpenAI-compatible endpoints, for scorers, red teams and references."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
A = TypeVar("A")

RETRIES = 5
"""How often a failed request is sent again, with growing waits."""


class EndpointError(Exception):
    """An endpoint does not answer, or refuses the request; the message is one line."""


class Endpoint:
    """A language model behind an OpenAI-compatible endpoint.

    Args:
        model: Name of the model at the endpoint.
        base_url: Address of the endpoint; `None` for OpenAI's.
        key: Name of the environment variable with the key; most local servers need none.
        concurrency: Requests at a time.
        retries: How often a failed request is sent again.
        timeout: Seconds that a request may take.

    Raises:
        ImportError: The package `openai` is not installed.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key: str = "OPENAI_API_KEY",
        *,
        concurrency: int = 8,
        retries: int = RETRIES,
        timeout: float = 60.0,
    ):
        from openai import OpenAI

        self.model, self.concurrency = model, concurrency
        self._client = OpenAI(
            base_url=base_url, api_key=os.environ.get(key) or "none", max_retries=retries, timeout=timeout
        )

    @property
    def url(self) -> str:
        """Address of the endpoint."""
        return str(self._client.base_url)

    def chat(self, prompt: str, **options: Any) -> str:
        """Sends a message and returns the answer.

        Raises:
            EndpointError: The endpoint gives no answer.
        """
        content = prompt.encode("utf-8", "replace").decode("utf-8")
        reply = self._send(
            self._client.chat.completions.create,
            messages=[{"role": "user", "content": content}],
            **options,
        )
        return reply.choices[0].message.content or ""

    def complete(self, prompt: str, **options: Any) -> Any:
        """Returns the first choice of a completion, with `text`, `finish_reason` and `logprobs`.

        Raises:
            EndpointError: The endpoint gives no answer.
        """
        return self._send(self._client.completions.create, prompt=prompt, **options).choices[0]

    def map(self, ask: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """Calls `ask` for several items at a time, and returns the answers in the order of the items."""
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(ask, items))

    def _send(self, create: Callable[..., Any], **options: Any) -> Any:
        import openai

        try:
            return create(model=self.model, **options)
        except (openai.AuthenticationError, openai.NotFoundError, openai.BadRequestError) as error:
            raise EndpointError(f"{self.url} refuses: {_first_line(error)}") from error
        except openai.OpenAIError as error:
            raise EndpointError(f"{self.url} does not answer: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
