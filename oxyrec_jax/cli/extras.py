"""Which extra of the package installs what a verb may lack."""

from collections.abc import Mapping

# Module to extra, where setup.cfg does not install it with the package alone.
EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("grain", "pyarrow"), "data"),
    **dict.fromkeys(("safetensors", "tokenizers", "wordllama"), "text"),
    "plotly": "report",
    **dict.fromkeys(("optax", "orbax", "pydantic", "tensorboardX", "yaml"), "train"),
    "openai": "llm", "lmdb": "store", "redis": "redis", "ray": "cluster",
    **dict.fromkeys(("httptools", "prometheus_client", "starlette", "uvicorn"),
                    "serve"),
}


def extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra to install for an import that failed; None: it is none of ours.

    Modules that every run needs are named with the extra "train", which holds them all.
    """
    found = EXTRAS.get((error.name or "").partition(".")[0])
    return "train" if found in ("data", "text", "report") else found
