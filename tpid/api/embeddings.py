"""POST /v1/embeddings: refused, with the reason."""

from aiohttp import web

from tpid.errors import RequestError


async def refuse_embeddings(request: web.Request) -> web.Response:
    """Raises RequestError: what a chat model's states have in common says little of what a text means."""
    raise RequestError(
        "There are no embeddings here: the models are made to continue text, and a mean of their states would find "
        "the right text far less often than a small embedding model does.",
        hint="Run an embedding model beside tpid, for example with sentence-transformers or llama.cpp.",
    )
