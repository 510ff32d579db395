"""A Modelfile from the body of /api/create."""

from __future__ import annotations

from localllm.errors import ModelNotFound
from localllm.modelfile import Modelfile, parse
from localllm.serve.ollama.schemas import CreateBody
from localllm.serve.resident.catalog import Catalog
from localllm.serve.web.problems import RequestProblem

NO_FILES = (
    "files are not taken over the API: localllm pull FILE.gguf or localllm convert, on the "
    "server's own machine"
)


def modelfile_of(body: CreateBody, catalog: Catalog) -> str:
    """Its text. The base is a model that is here; files of the client's are not taken, and no
    path is: what a Modelfile names stays among the names of the registry.

    Raises RequestProblem, ModelNotFound, UsageProblem.
    """
    if body.files or body.adapters:
        raise RequestProblem(NO_FILES, "files")
    if body.quantize:
        raise RequestProblem("models are not quantized over the API: localllm quantize", "quantize")
    if body.modelfile is not None:
        given = parse(body.modelfile)
        if given.adapters or given.draft:
            raise RequestProblem("adapters are given on the server's own machine", "modelfile")
    elif body.base is not None:
        given = _spelled(body, body.base)
    else:
        raise RequestProblem("from names no model", "from")
    base = catalog.find(given.base).model
    if base.id is None:
        raise ModelNotFound(f"{given.base} is not in the registry")
    return Modelfile(
        base=base.name,
        parameters=given.parameters,
        template=given.template,
        system=given.system,
        licenses=given.licenses,
        messages=given.messages,
    ).text()


def _spelled(body: CreateBody, base: str) -> Modelfile:
    license = body.license or ()
    return Modelfile(
        base=base,
        parameters=body.parameters or {},
        template=body.template or None,
        system=body.system or None,
        licenses=(license,) if isinstance(license, str) else tuple(license),
        messages=tuple((one.role, one.content or "") for one in body.messages or ()),
    )
