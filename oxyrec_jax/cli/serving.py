"""The verb that serves what was trained."""

import dataclasses
import pathlib
from typing import Annotated, Any

from tyro.conf import arg

from oxyrec_jax.cli.verb import Verb
from oxyrec_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Serve(Verb):
    r"""Answer requests over HTTP: recommendations, similar items, a page to try them.

    Beside the endpoints /v1/recommend and /v1/similar there are /healthz, /readyz,
    /metrics, /docs and, for people, /. Programs are compiled before the first request;
    nothing is compiled after. SIGTERM lets what came before be answered. A new
    catalogue (oxyrec tokenize --add, --retire) is served without a restart after POST
    /v1/swap, which wants an admin token. docs/serving.md tells the rest.

    Tokens are read from files or from the environment variables OXYREC_SERVE_TOKEN and
    OXYREC_SERVE_ADMIN_TOKEN.

    Examples:
    $ oxyrec serve --workdir runs/quickstart
    $ oxyrec serve --workdir runs/shop --port 0 --token-file secrets/token
    $ curl localhost:8000/v1/recommend -H content-type:application/json \
        -d '{"user": "user-00000017", "k": 5}'
    """

    host: Annotated[str, arg(help="Address to listen on; this machine's own.")
                    ] = "127.0.0.1"
    port: Annotated[int, arg(help="Port to listen on; 0 takes a free one.")] = 8000
    batches: Annotated[tuple[int, ...], arg(
        metavar="INT [INT...]", help="Requests of a batch, a program each. With one "
        "number answers are the same to the last bit in any company.")] = (1, 4, 16)
    lengths: Annotated[tuple[int, ...], arg(
        metavar="INT [INT...]", help_behavior_hint="(default: a quarter of the "
        "experiment's history and all of it)", help="Events of a history, a program "
        "each.")] = ()
    queue: Annotated[int, arg(help="Requests that may wait; the next one gets 429.")
                     ] = 256
    workers: Annotated[int, arg(
        help="Batches that are computed at the same time; on a CPU each on one core. "
        "More than one pays where a batch of one takes many milliseconds.")] = 1
    history_cache: Annotated[float, arg(
        metavar="MIB", help="Memory of the device for encoded histories, for users who "
        "ask again before they do something new; 0 keeps none.")] = 0.0
    deadline_ms: Annotated[float, arg(
        help="After which an answer is of no use, where a request does not say.")
        ] = 1_000.0
    body_limit: Annotated[int, arg(help="Bytes of a request's body.")] = 262_144
    token_file: Annotated[pathlib.Path | None, arg(
        metavar="FILE", help_behavior_hint="(optional)",
        help="Holds the token that requests must bear.")] = None
    admin_token_file: Annotated[pathlib.Path | None, arg(
        metavar="FILE", help_behavior_hint="(optional)",
        help="Holds the token that a swap must bear.")] = None
    seed: Annotated[int | None, arg(
        metavar="INT", help_behavior_hint="(default: the experiment's first)",
        help="Whose run answers.")] = None
    idle: Annotated[float, arg(help="Seconds after which an idle connection, or one "
                               "that does not end its request, is closed.")] = 10.0
    grace: Annotated[float, arg(help="Seconds after SIGTERM for which new requests are "
                                "told 503 instead of nothing.")] = 1.0
    drain: Annotated[float, arg(help="Seconds after SIGTERM by which the server ends, "
                                "whatever is not answered.")] = 30.0

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import serving
        from oxyrec_jax.serve.front import Limits
        from oxyrec_jax.serve.process import Listening
        for name in ("batches", "lengths"):
            sizes = getattr(self, name)
            if (any(size < 1 for size in sizes) or list(sizes) != sorted(set(sizes))
                    or name == "batches" and not sizes):
                raise InputError(f"--{name} {' '.join(map(str, sizes))}: expected "
                                 "ascending numbers from 1")
        for name, least in (("queue", 1), ("body_limit", 1), ("deadline_ms", 1),
                            ("workers", 1), ("history_cache", 0), ("idle", 0.1),
                            ("grace", 0), ("drain", 0), ("port", 0)):
            if getattr(self, name) < least:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: "
                                 f"expected at least {least}")
        return serving.serve(self.space(), serving.Serving(
            Listening(self.host, self.port, idle=self.idle, grace=self.grace,
                      drain=self.drain),
            self.batches, self.lengths, self.queue, self.workers,
            round(self.history_cache * 2**20),
            Limits(self.deadline_ms / 1e3, self.body_limit, upload=self.idle),
            self.token_file, self.admin_token_file, self.seed))
