"""An item of the catalogue, as `rec.items.snapshot.v1` keeps it (key: `item_id`, compacted)."""

from __future__ import annotations

from typing import Literal

import msgspec

from contracts.event import Identifier


class Item(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One item.

    Attributes:
        item_id: the id events use.
        title: what a person reads; may be empty.
        categories: genres, departments or tags, in the source's order.
        schema_version: 1.
    """

    item_id: Identifier
    title: str = ""
    categories: tuple[str, ...] = ()
    schema_version: Literal[1] = 1
