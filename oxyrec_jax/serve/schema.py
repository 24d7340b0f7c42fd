"""What is asked and answered over HTTP, as the OpenAPI page shows it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictFloat, StrictInt

Name = Annotated[str, Field(min_length=1, max_length=256)]
Names = Annotated[list[Name], Field(max_length=10_000)]
Seconds = Annotated[StrictInt, Field(ge=0, lt=1 << 40)]
Deadline = Annotated[StrictFloat | StrictInt | None, Field(
    gt=0, le=60_000, allow_inf_nan=False, description="Milliseconds after which the "
    "answer is of no use; by default the server's.")]
Count = Annotated[StrictInt, Field(
    ge=1, le=1_000, description="How many items; at most the beams of the search.")]


class Strict(BaseModel):
    """Unknown fields are refused, so that a misspelt one is seen."""

    model_config = ConfigDict(extra="forbid")


class Event(Strict):
    """One event of a history."""

    item: Name = Field(description="Item id, as in the data set.")
    behaviour: Name | None = Field(
        default=None,
        description="Such as click; a name of the log.")
    scenario: Name | None = Field(
        default=None,
        description="Where it was; a name of the log.")
    time: Seconds | None = Field(
        default=None,
        description="Seconds since 1970.")
    price: Annotated[StrictFloat | StrictInt, Field(
        ge=0, le=1e12, allow_inf_nan=False)] | None = Field(
        default=None,
        description="In the log's currency.")


class Filters(Strict):
    """Which items may be recommended: all of these hold at once."""

    allow_items: Names | None = Field(
        default=None,
        description="Only these; an empty list allows nothing.")
    deny_items: Names = Field(
        default=[],
        description="None of these.")
    where: dict[Name, Names] = Field(
        default={}, max_length=16, description="A column of the item table (category, "
        "brand) has one of these values.")
    sets: Annotated[list[Name], Field(max_length=64)] = Field(
        default=[],
        description="In all of these sets, which the server reads from files.")
    exclude_history: bool = Field(
        default=False,
        description="Nothing of the history.")


class RecommendRequest(Strict):
    """Who asks, or with what history; where; for what."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [
        {"user": "user-00000017", "k": 5}]})

    user: Name | None = Field(
        default=None,
        description="A user of the log: its history, profile and instruction. With a "
        "history, the history counts.")
    history: Annotated[list[Name | Event], Field(min_length=1, max_length=10_000)] | (
        None) = Field(
        default=None,
        description="Item ids or events, oldest first.")
    scenario: Name | None = Field(
        default=None,
        description="Where the request is made.")
    trigger: Name | None = Field(
        default=None,
        description="Item id of what opened the scenario.")
    behaviour: Name | None = Field(
        default=None,
        description="What the user shall do with the items, such as order.")
    instruction: Annotated[str, Field(max_length=2_000)] | None = Field(
        default=None,
        description="What is wanted, in words; by default what the instruction store "
        "holds for the user.")
    time: Seconds | None = Field(
        default=None,
        description="When the request is made, seconds since 1970.")
    filters: Filters = Field(default_factory=Filters)
    k: Count = 10
    deadline_ms: Deadline = None
    unknown_items: Literal["error", "skip"] = Field(
        default="error",
        description="What to do with items of the history that the catalogue does not"
        " know: refuse the request, or leave them out and say so.")
    explain: bool = Field(
        default=False,
        description="Add the history as it was read and the search's tree.")


class SimilarRequest(Strict):
    """Which item is to be matched."""

    item: Name = Field(description="Item id.")
    filters: Filters = Field(default_factory=Filters)
    k: Count = 10
    deadline_ms: Deadline = None


class Item(BaseModel):
    """One item of an answer."""

    rank: int
    item_id: str
    title: str
    semantic_id: list[int]
    log_prob: float | None = Field(
        default=None,
        description="Of its semantic ID among all that were allowed, nats.")
    similarity: float | None = Field(
        default=None,
        description="Cosine.")


class Timing(BaseModel):
    """Where the time went."""

    queue_ms: float
    compute_ms: float
    batch: int = Field(description="Requests computed together.")


class Response(BaseModel):
    """Items, best first, all of one version."""

    version: str = Field(description="Of the catalogue and the network.")
    items: list[Item]
    reason: str = Field(description="Why there are fewer items than asked, or empty.")
    note: str = Field(description="What was left out of the history, or empty.")
    skipped: list[str] = Field(description="Items that the catalogue does not know.")
    timing: Timing


class RecommendResponse(Response):
    """Recommendations."""

    instruction: dict[str, Any] | None = Field(
        default=None,
        description="What the network was told of the user, and from where.")
    history: list[dict[str, Any]] | None = Field(
        default=None,
        description="With explain: the history as it was read, oldest first.")
    tree: list[dict[str, Any]] | None = Field(
        default=None,
        description="With explain: the nodes of the search's tree, level by level, "
        "the likelier first: codes, log_prob of the prefix, beams (results that begin "
        "so) and fate: kept; ended, where nothing that follows was kept; cut, where "
        "the search did not go on, the best of these of each level.")
    levels: list[dict[str, int]] | None = Field(
        default=None,
        description="With explain: of each level how many prefixes were legal, kept "
        "and cut.")


class ErrorDetail(BaseModel):
    """Why there is no answer."""

    status: int
    reason: str = Field(description="One word for programs.")
    message: str
    field: str = Field(description="The field of the request that is meant, or empty.")


class ErrorResponse(BaseModel):
    """No answer."""

    error: ErrorDetail


class SwapResponse(BaseModel):
    """What a swap or a rollback did."""

    version: str = Field(description="That answers from now on.")
    before: str = Field(description="That answered until now.")
    load_ms: float = Field(description="Reading and placing it, beside the requests.")
    swap_ms: float = Field(description="For which no request could come in.")
    compiled: int = Field(description="Programs compiled for it; 0 where its arrays "
                          "are of the sizes of the one before.")
