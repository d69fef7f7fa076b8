"""What workers and owners say to one another. Payload bytes travel in frames of their own behind the message."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from online_trainer.ledger import LedgerRow

PROTOCOL = 3
"""Rises with every change of meaning: unknown fields are passed over, so the other end must be told. 2: owners only add
what workers' optimizers found; `Rule` has none of its own. 3: an order may add items."""
Count = Annotated[int, msgspec.Meta(ge=0)]
Ranges = dict[int, tuple[Count, Count]]
"""Partition → (first offset, end offset)."""


class Encoding(StrEnum):
    """How a payload frame is written: nothing, `kernels.wire` bytes, or bf16."""

    NONE = "none"
    COMPRESSED = "compressed"
    DENSE = "dense"


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """What every replica must do alike.

    Attributes:
        learning_rate: a factor on the decoded updates, which are what workers' local optimizers found.
        staleness_power: a push counts (1 + staleness beyond one push of every other worker)^-power.
        chunk, slots, quantizer: of compressed payloads.
        compressed: whether workers compress; they send bf16 otherwise.
        choose: `compressed` is where they begin; then the coordinator has both measured and takes the faster.
        local_steps: batches a push.
        fragments: a push carries one of so many parts of the vector, in turn.
        average: the weights that serve keep this share at an order; 0 serves the weights that learn.
    """

    learning_rate: float = 1.0
    staleness_power: float = 0.5
    chunk: int = 4096
    slots: int = 64
    quantizer: str = "int2"
    compressed: bool = True
    choose: bool = False
    local_steps: Annotated[int, msgspec.Meta(ge=1)] = 1
    fragments: Annotated[int, msgspec.Meta(ge=1)] = 1
    average: float = 0.0


class From(msgspec.Struct, frozen=True, kw_only=True):
    """Who speaks.

    Attributes:
        worker: its name.
        incarnation: drawn anew by each process.
    """

    worker: str
    incarnation: Count


class Join(From, frozen=True, kw_only=True, tag="join"):
    """A worker comes, or comes back after the coordinator forgot it.

    Attributes:
        model, layout: name and `FlatLayout.digest` of what it trains.
        protocol: its `PROTOCOL`.
    """

    model: str
    layout: str
    protocol: int = PROTOCOL


class Sync(From, frozen=True, kw_only=True, tag="sync"):
    """What is new?

    Attributes:
        generation: the newest assignment it goes by; it has let go of every partition not in that one.
        index: orders it has applied.
        idle: it has nothing to train; nobody waits for it.
        waiting: partition → offsets that wait for it.
    """

    generation: Count
    index: Count
    idle: bool = False
    waiting: dict[int, int] = {}


class PushCost(msgspec.Struct, frozen=True, kw_only=True):
    """What one push and the pull with it took.

    Attributes:
        compressed: how it was encoded.
        encode_seconds, decode_seconds: on the worker.
        link_seconds: from the send to the answer, less what the owner kept it waiting for other workers.
    """

    compressed: bool
    encode_seconds: float
    link_seconds: float
    decode_seconds: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.encode_seconds + self.link_seconds + self.decode_seconds


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker saw since its last push.

    Attributes:
        compute_seconds: spent on batches.
        waited_seconds: spent waiting for owners: exchange time that nothing hid, exposed.
        hidden_seconds: of the exchange that went on while it prepared its next batch.
        sent_bytes, received_bytes: on its connections, framing included.
        dense_bytes: what its updates would have been as fp32.
        encode_seconds: spent on compressing.
        loss, ndcg_sum: last batch's loss in nats, and the sum over events scored before they were trained.
        lag_seconds: age of the newest record when it was trained.
        refused_batches: passed over because loss or gradient was not finite.
        nonfinite: gradient elements that were not finite and counted as zero.
        untrained: reason → records that were not trained.
        cost: of the push before this one; None for the first.
    """

    compute_seconds: float = 0.0
    waited_seconds: float = 0.0
    hidden_seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    dense_bytes: int = 0
    encode_seconds: float = 0.0
    loss: float = 0.0
    ndcg_sum: float = 0.0
    lag_seconds: float = 0.0
    refused_batches: int = 0
    nonfinite: int = 0
    untrained: dict[str, int] = {}
    cost: PushCost | None = None


class Push(From, frozen=True, kw_only=True, tag="push"):
    """An update, and the events in it; the payload of shard 0 is the frame behind.

    Attributes:
        seq: 1, 2, 3, … within the incarnation.
        generation, index: as in `Sync`.
        base: index of the weights it was computed on.
        ranges: the offsets it covers.
        rows: a ledger row for each record of them.
        encoding: of the payload.
        start, stop: elements of the vector it covers.
        residual_norm: L2 norm of what stays unsent.
        waiting: as in `Sync`.
    """

    seq: Count
    generation: Count
    base: Count
    ranges: Ranges
    rows: list[LedgerRow]
    encoding: Encoding
    start: Count
    stop: Count
    residual_norm: float
    waiting: dict[int, int] = {}
    measured: Measured = Measured()

    @property
    def examples(self) -> int:
        """Events trained in it."""
        return sum(row.trained for row in self.rows)


class Adopt(From, frozen=True, kw_only=True, tag="adopt"):
    """Give me what is remembered of `partition`, which I hold now."""

    partition: int


class Fetch(msgspec.Struct, frozen=True, kw_only=True, tag="fetch"):
    """Give me the shard's weights and the optimizer's state with them, once it stands at order `index` or behind."""

    index: Count = 0


class Part(From, frozen=True, kw_only=True, tag="part"):
    """The payload for a shard that is not the coordinator's; stored, and applied once its push is ordered."""

    seq: Count
    start: Count
    stop: Count
    encoding: Encoding


class Follow(msgspec.Struct, frozen=True, kw_only=True, tag="follow"):
    """An owner of another shard asks for the orders behind `index`.

    Attributes:
        cut: order of the checkpoint that it has written and whose serving weights are the frame behind; 0 before that.
        kept: order of a checkpoint that waits for room on its disk; 0 for none.
        full: whether something waits for room.
    """

    shard: int
    index: Count
    cut: Count = 0
    kept: Count = 0
    full: bool = False


class Relay(msgspec.Struct, frozen=True, kw_only=True, tag="relay"):
    """A worker asks another shard's owner for the payloads of orders `after` … `until`, but for its own pushes'."""

    worker: str
    incarnation: Count
    after: Count
    until: Count


class Leave(From, frozen=True, kw_only=True, tag="leave"):
    """An orderly end."""


Request = Join | Sync | Push | Adopt | Fetch | Part | Follow | Relay | Leave


class Pushed(msgspec.Struct, frozen=True, kw_only=True):
    """A push within an order, as replicas need it.

    Attributes:
        staleness: orders between `base` and this one.
        scale: factor on its decoded payload.
    """

    worker: str
    incarnation: int
    seq: int
    base: int
    staleness: int
    scale: float
    encoding: Encoding
    start: int
    stop: int


class AddedRows(msgspec.Struct, frozen=True, kw_only=True):
    """Items that get the next reserved slots, and what their rows become.

    Attributes:
        item_ids: in slot order.
        rows: element of the whole vector → the fp32 values from there on.
    """

    item_ids: tuple[str, ...]
    rows: dict[int, bytes]


class Order(msgspec.Struct, frozen=True, kw_only=True, tag="order"):
    """Order number `index`: pushes that are applied as one step, or items that are added."""

    index: int
    pushes: list[Pushed]
    added: AddedRows | None = None


class Joined(msgspec.Struct, frozen=True, kw_only=True, tag="joined"):
    """Welcome. `seq` is the newest sequence number of this incarnation that was ordered."""

    rule: Rule
    seq: int
    shards: list[str] = []


class News(msgspec.Struct, frozen=True, kw_only=True, tag="news"):
    """What is new; the payloads of `orders`, but for the asker's own, are the frames behind, in order.

    Attributes:
        ordered: index of the push this answers, once it was ordered.
        orders: behind the asker's index; `gap` says that they are no longer at hand: fetch the weights.
        generation, partitions: its assignment, with each partition's first offset that is not in the weights.
        batch_events: how many events its batches should have.
        cut: index of the newest checkpoint that is asked for; 0 for none.
        stop: leave: everything that was to be trained is in the weights.
        compressed: how the next push is to be encoded, with `Rule.choose`; None: as the rule says.
        held_seconds: how long the push this answers waited for other workers.
    """

    orders: list[Order]
    generation: int
    partitions: dict[int, int]
    batch_events: int
    ordered: int | None = None
    gap: bool = False
    cut: int = 0
    stop: bool = False
    compressed: bool | None = None
    held_seconds: float = 0.0


class Weights(msgspec.Struct, frozen=True, kw_only=True, tag="weights"):
    """A shard as of order `index`; the frames behind hold the tensors called `names`, fp32 but for counts.

    `added_items`, of owner 0, are those that its weights know and the model folder does not, in slot order.
    """

    index: int
    start: int
    stop: int
    names: list[str]
    added_items: tuple[str, ...] = ()


class Remembered(msgspec.Struct, frozen=True, kw_only=True, tag="remembered"):
    """A partition's histories and dedupe window.

    Attributes:
        offset: its first offset that is not in the weights.
        histories: user → (item, timestamp), oldest first.
        seen: event ids, oldest first.
    """

    partition: int
    offset: int
    histories: dict[str, list[tuple[str, float]]]
    seen: list[str]


class Payloads(msgspec.Struct, frozen=True, kw_only=True, tag="payloads"):
    """Frames behind: a payload for each (order, push) of the asked range that is not the asker's own."""


class Done(msgspec.Struct, frozen=True, kw_only=True, tag="done"):
    """Stored, or let go."""


class Reason(StrEnum):
    """Why a request was refused, and what the worker does about it."""

    UNKNOWN_MEMBER = "unknown_member"
    """Join again; the pending push may be sent again then."""
    LAYOUT = "layout"
    """Another model, version or layout: stop, the text names both."""
    NOT_YOURS = "not_yours"
    """Undo the push: its offsets are another's, or in the weights already."""
    SEQUENCE = "sequence"
    """Undo the push and join as a new incarnation."""
    STALE = "stale"
    """Its weights are too old, or ahead of the log: return the payload to the residual, pull, send again."""
    DUPLICATE = "duplicate"
    """Undo the push; the named event ids are in the weights already."""
    CORRUPT = "corrupt"
    """Return the payload to the residual, send again."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """No, and why."""

    reason: Reason
    detail: str
    event_ids: list[str] = []


Reply = Joined | News | Weights | Remembered | Payloads | Done | Refused
